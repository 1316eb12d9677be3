"""What the guarded child process says of a file, as JSON: written by it, believed only after checks.

A child that reads a hostile file may itself have become hostile, so its answer is data like any other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nanscope.store.guard.elements import NUMBERS
from nanscope.store.guard.evidence import NO_EVIDENCE, Evidence, Extent
from nanscope.store.inventory import Attribute, Inventory, Stored
from nanscope.store.text import clean

ANSWER_BYTES = 128 << 20
_REASON_LETTERS = 400
_LARGEST = 1 << 62  # of any length or offset
_FILTERS = {"deflate", "shuffle", "fletcher32"}


@dataclass(frozen=True)
class Answer:
    """One of three: an inventory, the reason of a refusal, or neither where the file is damaged.

    Attributes:
        evidence: what the inventory was made of.
    """

    inventory: Inventory | None = None
    reason: str = ""
    evidence: Evidence = NO_EVIDENCE


def pack(answer: Answer) -> bytes:
    """Answer as bytes."""
    return json.dumps(asdict(answer)).encode("ascii")


def unpack(data: bytes) -> Answer:
    """Answer from bytes of any origin.

    Raises:
        ValueError: they are no answer.
    """
    try:
        value = json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    match value:
        case {"inventory": dict(inventory), "evidence": dict(evidence)}:
            return Answer(_inventory(inventory), evidence=_evidence(evidence))
        case {"inventory": None, "reason": str(reason)}:
            return Answer(reason=clean(reason[:_REASON_LETTERS]))
    raise ValueError("no answer")


def _inventory(value: Mapping[str, Any]) -> Inventory:
    match value:
        case {"attributes": dict(attributes), "texts": dict(texts), "arrays": dict(arrays)}:
            return Inventory(
                {name: _attribute(item) for name, item in attributes.items()},
                {name: _texts(item) for name, item in texts.items()},
                {name: _stored(item) for name, item in arrays.items()},
            )
    raise ValueError("no inventory")


def _attribute(value: Any) -> Attribute:
    if isinstance(value, str | int | float):
        return value
    raise ValueError("no attribute")


def _texts(value: Any) -> list[str]:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    raise ValueError("no texts")


def _stored(value: Any) -> Stored:
    match value:
        case {
            "shape": list(shape),
            "dtype": str(dtype),
            "offset": offset,
            "chunks": chunks,
            "filters": list(names),
        }:
            if dtype in NUMBERS and all(name in _FILTERS for name in names):
                return Stored(
                    _lengths(shape),
                    dtype,
                    None if offset is None else _length(offset),
                    None if chunks is None else _lengths(chunks),
                    tuple(names),
                )
    raise ValueError("no array")


def _evidence(value: Mapping[str, Any]) -> Evidence:
    match value:
        case {"extents": list(extents), "digest": str(digest)}:
            return Evidence(tuple(map(_extent, extents)), digest)
    raise ValueError("no evidence")


def _extent(value: Any) -> Extent:
    match value:
        case [start, stop] if _length(start) < _length(stop):
            return start, stop
    raise ValueError("no extent")


def _lengths(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise ValueError("no lengths")  # noqa: TRY004 - damaged data, not a wrong call
    return tuple(map(_length, value))


def _length(value: Any) -> int:
    if type(value) is int and 0 <= value <= _LARGEST:
        return value
    raise ValueError("no length")
