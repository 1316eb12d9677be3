"""What is in an HDF5 file that nobody vouches for.

libhdf5 does what a file says: it follows links and virtual datasets to other files, reads raw data from any
path, loads plug-ins for filters it does not know, inflates without bound. So each object is looked at before
libhdf5 is asked to act on it, and what no run file holds is refused. What libhdf5 gets wrong by itself (some
malformed metadata makes it hang or crash) is contained by the process that this runs in, see `sandbox.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import h5py
from h5py import h5a, h5g, h5s

from nanscope.store.guard.datasets import describe, read_text
from nanscope.store.guard.elements import is_string, number_type
from nanscope.store.guard.refusal import check
from nanscope.store.guard.walk import check_attributes, datasets
from nanscope.store.inventory import Attribute, Inventory, Stored
from nanscope.store.schema import FORMAT, MAJOR

ATTRIBUTE_BYTES = 1000
TEXT_BYTES = 32 << 20

ROOT_ATTRIBUTES = (
    *("format", "format_version", "nanscope_version", "host", "created"),
    *("run_id", "part", "parts", "layout", "precision"),
)
"""Attributes of the root that are read; others are not touched."""


def survey(file: Any) -> Inventory:
    """Walk through the whole file and report what is in it; only its attributes where it is not ours.

    Args:
        file: a binary file object that can be read and sought.

    Raises:
        Refusal: the file holds what no run file holds.
        OSError, KeyError, RuntimeError, ValueError, TypeError: it is damaged; libhdf5 and h5py say so.
    """
    with h5py.File(file, "r") as opened:
        root = h5g.open(opened.id, b"/")
        attributes = _root_attributes(root, opened.attrs)
        if not is_ours(attributes):
            return Inventory(attributes)
        texts: dict[str, list[str]] = {}
        arrays: dict[str, Stored] = {}
        room = TEXT_BYTES
        for path, dataset in datasets(root):
            name = path.decode("utf-8", "replace")
            if is_string(dataset.get_type()):
                texts[name], size = read_text(dataset, path, file, room)
                room -= size
            else:
                arrays[name] = describe(dataset, path)
    return Inventory(attributes, texts, arrays)


def is_ours(attributes: Mapping[str, Attribute]) -> bool:
    """Whether these are the attributes of a run file of a version that this code reads."""
    version = str(attributes.get("format_version", ""))
    return attributes.get("format") == FORMAT and version.partition(".")[0] == str(MAJOR)


def _root_attributes(root: h5g.GroupID, values: Any) -> dict[str, Attribute]:
    check_attributes(root, b"/")
    known = [name for name in ROOT_ATTRIBUTES if h5a.exists(root, name.encode())]
    return {name: _attribute(root, name, values) for name in known}


def _attribute(root: h5g.GroupID, name: str, values: Any) -> Attribute:
    attribute = h5a.open(root, name.encode())
    kind = attribute.get_type()
    plain = is_string(kind) or number_type(kind) is not None
    scalar = attribute.get_space().get_simple_extent_type() == h5s.SCALAR
    check(plain and scalar, f"its attribute {name} is neither a text nor a number")
    check(kind.get_size() <= ATTRIBUTE_BYTES, f"its attribute {name} is too long")
    value: Any = values[name]
    if not isinstance(value, bytes | str):
        number: int | float = value.item()
        return number
    check(len(value) <= ATTRIBUTE_BYTES, f"its attribute {name} is too long")
    return value if isinstance(value, str) else value.decode("utf-8", "replace")
