"""What an inventory was made of: the bytes of the file's metadata, as places and a digest.

libhdf5 reads ahead, so that what it read of a file reaches into the numbers that lie behind the metadata, and
these change while a run is live. Of a file that keeps the two apart, as every honest one does, the inventory
does not depend on the numbers: they are left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from nanscope.store.inventory import Stored

Extent = tuple[int, int]
"""Offset of the first byte, and of the one behind the last."""


@dataclass(frozen=True)
class Evidence:
    """Where the bytes are, rising and apart, and their BLAKE2b digest in hex."""

    extents: tuple[Extent, ...]
    digest: str


NO_EVIDENCE = Evidence((), "")
"""Of a file that was read in too many pieces."""


def evidence(pieces: Iterable[tuple[int, bytes]], arrays: Mapping[str, Stored]) -> Evidence:
    """What was read of a file, but for its numbers.

    Args:
        pieces: offset and bytes of what was read.
        arrays: where the numbers are.
    """
    known: dict[int, bytes] = {}
    for offset, data in pieces:
        known[offset] = max(known.get(offset, b""), data, key=len)
    read = _merged((offset, offset + len(data)) for offset, data in known.items())
    extents = tuple(_without(read, _merged(_numbers(arrays))))
    return Evidence(extents, digest(_bytes(known, start, stop) for start, stop in extents))


def digest(pieces: Iterable[bytes]) -> str:
    """Of the pieces, one after the other."""
    found = hashlib.blake2b(digest_size=32)
    for piece in pieces:
        found.update(piece)
    return found.hexdigest()


def _numbers(arrays: Mapping[str, Stored]) -> list[Extent]:
    return [(s.offset, s.offset + s.nbytes) for s in arrays.values() if s.offset is not None]


def _merged(extents: Iterable[Extent]) -> list[Extent]:
    """Rising and apart."""
    merged: list[Extent] = []
    for start, stop in sorted(extents):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


def _without(extents: list[Extent], others: list[Extent]) -> list[Extent]:
    """What of the extents is in none of the others; both rising and apart."""
    left = []
    for start, stop in extents:
        at = start
        for low, high in others:
            if low < stop and high > at:
                left.append((at, low))
                at = high
        left.append((at, stop))
    return [(start, stop) for start, stop in left if start < stop]


def _bytes(known: Mapping[int, bytes], start: int, stop: int) -> bytes:
    found = bytearray(stop - start)
    for offset, data in known.items():
        low, high = max(start, offset), min(stop, offset + len(data))
        if low < high:
            found[low - start : high - start] = data[low - offset : high - offset]
    return bytes(found)
