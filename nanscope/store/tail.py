"""The rows that are in the ring of a live file."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from nanscope.store.layout import row_words
from nanscope.store.raw import RawFile

Words = NDArray[np.uint32]
Numbers = NDArray[np.int64]


def read_ring(raw: RawFile) -> Words:
    """The ring, shape (rows, words), and as its last row the newest one while it was being amended."""
    table = np.empty((raw.layout.ring + 1, row_words(raw.layout.columns)), "<u4")
    raw.read_into("live/ring", table[:-1])
    raw.read_into("live/amended", table[-1])
    return table


def sound_rows(table: Words, start: int) -> tuple[Numbers, Words]:
    """The sound rows from number `start` on, oldest first: their numbers, and the rows, shape (rows, words).

    The newest row may be torn in its place because it was being amended; then it is where it was put before.
    """
    ring = len(table) - 1
    numbers = np.ascontiguousarray(table[:, :2]).view("<i8")[:, 0]
    fits = numbers % ring == np.arange(ring + 1)
    fits[ring] = True
    places = np.array([p for p in np.flatnonzero(fits & (numbers >= start)) if _is_sound(table[p])], np.int64)
    _, first = np.unique(numbers[places], return_index=True)  # rising; of two alike the one in the ring
    places = places[first]
    return numbers[places], table[places]


def _is_sound(row: Words) -> bool:
    return bool(zlib.crc32(row[:-1].data) == row[-1])


def is_whole(numbers: Numbers, start: int, stop: int) -> bool:
    """Whether rising numbers begin with `start`, have no gap and reach as far as `stop`."""
    expected = np.arange(start, start + len(numbers))
    return start + len(numbers) >= stop and np.array_equal(numbers, expected)


def settled(numbers: Numbers, first: int, counted: int) -> int:
    """How many of the rising numbers count: of those not yet counted by the head only those without a gap.

    A writer at work may have put a later row into a place that was not read yet while an earlier one went
    where the reading had passed.
    """
    start = max(first, counted)
    new = numbers[numbers >= start]
    gaps = np.flatnonzero(new != start + np.arange(len(new)))
    return len(numbers) - len(new) + (int(gaps[0]) if len(gaps) else len(new))
