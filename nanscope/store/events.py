"""Events from a file that nobody vouches for: whether they are what their kind says.

Everything behind the reader relies on the fields of the kinds that it knows. Other kinds are let through: a
later version may note more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

from nanscope.values import Epoch

_LARGEST = 1 << 62  # fits in every integer that numpy has
_CLASSES = 1000

Event = Mapping[str, Any]


def is_event(value: Any) -> TypeGuard[Event]:
    """Whether a JSON value is an event with all that its kind must have."""
    if (
        not isinstance(value, dict)
        or not isinstance(value.get("kind"), str)
        or not _is_whole(value.get("step"))
    ):
        return False
    return _KINDS.get(value["kind"], _anything)(value)


def epoch_of(event: Event) -> Epoch | None:
    """The evaluation in an event of kind `epoch`, without fields of a later version; None if it is none."""
    if not _is_epoch(event):
        return None
    fields = {name: event[name] for name in _WHOLE | _REAL}
    return Epoch(**fields, confusion=tuple(tuple(row) for row in event["confusion"]))


def _anything(_event: Event) -> bool:
    return True


def _is_whole(value: Any) -> bool:
    return type(value) is int and -1 <= value <= _LARGEST


def _is_real(value: Any) -> bool:
    """A number that a float holds, NaN and infinities among them."""
    return type(value) is float or (type(value) is int and abs(value) <= _LARGEST)


def _is_epoch(event: Event) -> bool:
    matrix = event.get("confusion")
    return (
        all(_is_whole(event.get(name)) for name in _WHOLE)
        and all(_is_real(event.get(name)) for name in _REAL)
        and isinstance(matrix, list)
        and len(matrix) <= _CLASSES
        and all(isinstance(row, list) and len(row) == len(matrix) for row in matrix)
        and all(_is_whole(count) and count >= 0 for row in matrix for count in row)
    )


def _is_scalar(event: Event) -> bool:
    return _is_whole(event.get("column")) and isinstance(event.get("name"), str)


def _has_message(event: Event) -> bool:
    return isinstance(event.get("message"), str)


def _is_state(event: Event) -> bool:
    """For parameters and buffers by name: numbers of NaN and of infinities."""
    tables = [event.get(name, {}) for name in ("parameters", "buffers")]
    return all(isinstance(table, dict) and all(map(_is_pair, table.values())) for table in tables)


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_whole, value))


_WHOLE = {"epoch", "step", "updates"}
_REAL = {"seconds", "loss", "accuracy", "f1"}
_KINDS: Mapping[str, Callable[[Event], bool]] = {
    "epoch": _is_epoch,
    "scalar": _is_scalar,
    "error": _has_message,
    "recorder-failed": _has_message,
    "state": _is_state,
}
