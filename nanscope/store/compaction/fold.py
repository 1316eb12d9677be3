"""Events and epochs as a compacted file holds them: JSON lines, and a table of numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nanscope.store.events import is_event
from nanscope.store.text import clean_json

Event = Mapping[str, Any]
Table = dict[str, NDArray[Any]]

TABLE_BYTES = 64 << 20  # that the confusion matrices may take


class Field(NamedTuple):
    """A column of the table of epochs: its type (as numpy spells it), unit and meaning."""

    dtype: str
    unit: str
    meaning: str


FIELDS: Mapping[str, Field] = {
    "epoch": Field("<i8", "1", "number of the epoch, from 1"),
    "step": Field("<i8", "step", "steps recorded when it was evaluated"),
    "updates": Field("<i8", "1", "optimizer steps within the epoch"),
    "seconds": Field("<f8", "s", "training time of the epoch"),
    "loss": Field("<f8", "1", "loss on the evaluation set"),
    "accuracy": Field("<f8", "1", "share of the evaluation set that was classified right"),
    "f1": Field("<f8", "1", "macro average of F1 on the evaluation set"),
    "classes": Field("<i8", "1", "classes in the confusion matrix; 0: there is none"),
    "confusion": Field("<u4", "1", "true class by predicted class, filled up with zeros"),
}


def fold(events: Sequence[Event]) -> tuple[list[Event], Table]:
    """Events without the epochs, and the epochs as a table.

    Epochs that the table cannot hold exactly stay among the events, all of them: then the table is empty.
    """
    epochs = [event for event in events if event["kind"] == "epoch"]
    rest = [event for event in events if event["kind"] not in ("epoch", "scalar")]
    table = _table(epochs)
    if len(epochs) == 0 or table is None:
        return [*rest, *epochs], {}
    return rest, table


def unfold(table: Mapping[str, NDArray[Any]]) -> list[Event]:
    """The epochs of a table as events.

    Raises:
        KeyError, ValueError: it is no such table.
    """
    confusion = table["confusion"]
    if len({len(table[name]) for name in FIELDS}) != 1:
        raise ValueError("columns of different lengths")
    found: list[Event] = []
    for i, classes in enumerate(table["classes"].tolist()):
        numbers = {name: table[name][i].item() for name in FIELDS if name not in ("classes", "confusion")}
        matrix = confusion[i, :classes, :classes].tolist()
        found.append({"kind": "epoch", **numbers, "confusion": matrix})
    return found


def parse_line(line: str) -> Event:
    """Event of a JSON line.

    Raises:
        ValueError, RecursionError: it is none.
    """
    event = clean_json(json.loads(line))
    if not is_event(event):
        raise ValueError("no event")
    return event


def _table(epochs: Sequence[Event]) -> Table | None:
    try:
        table = _filled(epochs)
        return table if _same(unfold(table), epochs) else None
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _filled(epochs: Sequence[Event]) -> Table:
    classes = [len(event["confusion"]) for event in epochs]
    if 4 * len(epochs) * max(classes) ** 2 > TABLE_BYTES:
        raise ValueError("too large")
    confusion = np.zeros((len(epochs), max(classes), max(classes)), "<u4")
    for matrix, event, size in zip(confusion, epochs, classes, strict=True):
        if size:
            matrix[:size, :size] = np.array(event["confusion"], np.uint32)
    names = [name for name in FIELDS if name not in ("classes", "confusion")]
    numbers = {name: np.array([event[name] for event in epochs], FIELDS[name].dtype) for name in names}
    return {**numbers, "classes": np.array(classes, "<i8"), "confusion": confusion}


def _same(table: Sequence[Event], epochs: Sequence[Event]) -> bool:
    """Whether nothing was lost; 1 and 1.0 are the same, NaN is itself."""
    return all(
        a.keys() == b.keys() and all(_equal(a[name], b[name]) for name in a)
        for a, b in zip(table, epochs, strict=True)
    )


def _equal(a: Any, b: Any) -> bool:
    return bool(a == b) or str(a) == str(b) == "nan"
