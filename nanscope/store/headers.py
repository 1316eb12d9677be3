"""The header of a run from the texts and small tables of its file."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from nanscope.run import Column, Header
from nanscope.store.guard.watched import read_at
from nanscope.store.inventory import Inventory, Stored
from nanscope.store.sizes import COLUMNS
from nanscope.store.text import clean, clean_json
from nanscope.values import Kind, Site

_LAST_MOMENT = 253402300799  # of the year 9999, beyond which Python has no dates


def read_header(descriptor: int, inventory: Inventory) -> Header:
    """The header, with all texts cleaned.

    Args:
        descriptor: the open file.
        inventory: what is in it.

    Raises:
        KeyError, IndexError, ValueError, TypeError, RecursionError: it is not as the schema says.
    """
    config, environment, model = (_json(inventory, name) for name in ("config", "env", "model"))
    if not (_is_table(config) and _is_table(environment) and isinstance(model, list)):
        raise ValueError("no settings")
    if not all(map(_is_table, model)):
        raise ValueError("no modules")
    columns = _columns(descriptor, inventory)
    return Header(columns, config, environment, tuple(model), _created(inventory))


def _json(inventory: Inventory, name: str) -> Any:
    return clean_json(json.loads(inventory.texts[name][0]))


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def _created(inventory: Inventory) -> float:
    created = float(inventory.attributes["created"])
    if not (math.isfinite(created) and 0 <= created <= _LAST_MOMENT):
        raise ValueError("no moment")
    return created


def _columns(descriptor: int, inventory: Inventory) -> tuple[Column, ...]:
    sites = _sites(descriptor, inventory)
    stats, scalars = _texts(inventory, "series/stat"), _texts(inventory, "series/scalar")
    pairs = zip(
        _numbers(descriptor, inventory.arrays["columns/site"], "<i4"),
        _numbers(descriptor, inventory.arrays["columns/stat"], "<i4"),
        strict=True,
    )
    return tuple(
        Column(None, scalars[_place(stat)])
        if site == -1
        else Column(sites[_place(site)], stats[_place(stat)])
        for site, stat in pairs
    )


def _sites(descriptor: int, inventory: Inventory) -> list[Site]:
    fields = zip(
        _texts(inventory, "series/site_module"),
        _texts(inventory, "series/site_kind"),
        _texts(inventory, "series/site_module_type"),
        _numbers(descriptor, inventory.arrays["series/site_order"], "<i4"),
        _texts(inventory, "series/site_dtype"),
        _numbers(descriptor, inventory.arrays["series/site_numel"], "<i8"),
        strict=True,
    )
    return [Site(name, Kind(kind), *rest) for name, kind, *rest in fields]


def _texts(inventory: Inventory, name: str) -> list[str]:
    return [clean(text) for text in inventory.texts[name]]


def _place(index: int) -> int:
    if index < 0:  # which Python would count from the end
        raise IndexError(index)
    return index


def _numbers(descriptor: int, stored: Stored, dtype: str) -> list[int]:
    (count,) = stored.shape
    if count == 0:
        return []
    if stored.dtype != dtype or stored.offset is None or count > COLUMNS:
        raise ValueError("no table of numbers")
    data = read_at(descriptor, stored.nbytes, stored.offset)
    if len(data) != stored.nbytes:
        raise ValueError("beyond the end")
    numbers: list[int] = np.frombuffer(data, dtype).tolist()
    return numbers
