"""Events as lines of text: a checksum in hex, a space, JSON.

The JSON is ASCII, so that any string can be stored, and in Python's dialect (`NaN`, `Infinity`), so that a
number comes back as the number it was.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

from nanscope.store.events import is_event
from nanscope.store.text import clean_json
from nanscope.values import plain


def to_json(value: Any) -> str:
    """Value as ASCII JSON; arrays become lists, values of nanscope dicts, anything else its text.

    Raises:
        TypeError, ValueError, RecursionError: the value has odd keys or holds itself.
    """
    return json.dumps(value, default=_default)


def frame(event: Mapping[str, Any]) -> bytes:
    """Event as one line. Raises like `to_json`."""
    text = to_json(event).encode("ascii")
    return b"%08x %s\n" % (zlib.crc32(text), text)


def parse(data: bytes) -> tuple[list[Mapping[str, Any]], int]:
    """The events in the written part of the region, oldest first, and the number of unreadable lines."""
    lines = [line for line in data.replace(b"\0", b"").split(b"\n") if line]
    events: list[Mapping[str, Any]] = [e for e in map(_parse_line, lines) if e is not None]
    return events, len(lines) - len(events)


def _parse_line(line: bytes) -> Mapping[str, Any] | None:
    crc, _, text = line.partition(b" ")
    if crc != b"%08x" % zlib.crc32(text):
        return None
    try:
        event = clean_json(json.loads(text))
    except (ValueError, RecursionError):
        return None
    return event if is_event(event) else None


def _default(value: Any) -> Any:
    if hasattr(value, "tolist"):  # numpy's scalars and arrays
        return value.tolist()
    return plain(value) if is_dataclass(value) else str(value)
