"""Finished blocks of rows: series-major, with their summaries; which of them the file keeps whole.

Of a block that is given up for a newer one ("thinned") the summaries, steps and times stay. Kept whole are
the first blocks, those around rows that matter, and the newest ones.

The index says what is there. It is written last, so that it never declares what is not complete; and before a
block's values are overwritten its entry says so, and that is on the disk: neither a kill nor a power cut
leaves an entry that points to the values of another block.
"""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from nanscope.run import Floats
from nanscope.store.layout import ROW_HEAD_WORDS, Layout
from nanscope.store.pyramid import pyramid
from nanscope.store.regions import Regions
from nanscope.store.schema import INDEX_WORDS


class Blocks:
    """Puts finished blocks of one run file where they belong."""

    def __init__(self, regions: Regions, layout: Layout) -> None:
        self._regions = regions
        self._layout = layout
        self._free = list(range(layout.slots))[::-1]
        self._slots: dict[int, int] = {}  # of the blocks that are kept whole
        self._entries: dict[int, NDArray[np.uint32]] = {}  # what the index says of them
        self._first = layout.slots // 4  # so many blocks from the start are never given up
        self._pinned: set[int] = set()

    def keep(self, number: int) -> None:
        """Never give up this block and its neighbours, as long as others are left to give up."""
        if len(self._pinned) < self._layout.slots // 2:
            self._pinned.update(range(number - 1, number + 2))

    def write(self, number: int, rows: NDArray[np.uint32], values: Floats) -> None:
        """Write a finished block.

        Args:
            number: of the block.
            rows: its rows as they are in the ring, shape (block, words).
            values: the values in them, shape (block, columns).

        Raises:
            OSError: not everything could be written; the block is not declared complete.
        """
        heads = np.ascontiguousarray(rows[:, 2:ROW_HEAD_WORDS])
        with np.errstate(all="ignore"):  # NaN and infinities are what this file is for
            summaries = pyramid(values, self._layout.levels)
        kept = {
            "series/step": np.ascontiguousarray(heads[:, :2]),
            "series/time": np.ascontiguousarray(heads[:, 2:]),
            **summaries,
        }
        crc = 0
        for name, data in kept.items():
            self._regions.write(name, data, number * data.nbytes)
            crc = zlib.crc32(data.data, crc)
        entry = np.array([self._layout.block, crc, 0, 0], "<u4")
        if self._has_room():
            slot, data = self._free[-1], np.ascontiguousarray(values.T)
            self._regions.write("series/blocks", data, slot * data.nbytes)
            entry[2:] = slot + 1, zlib.crc32(data.data)
        self._declare(number, entry)
        if entry[2]:
            self._slots[number], self._entries[number] = self._free.pop(), entry

    def _has_room(self) -> bool:
        """Whether a place is free for the values of one more block; if not, give up another's."""
        if not self._free:
            others = (b for b in self._slots if b >= self._first and b not in self._pinned)
            given_up = min(others, default=None)
            if given_up is not None:
                self._give_up(given_up)
        return bool(self._free)

    def _give_up(self, number: int) -> None:
        entry = self._entries[number].copy()
        entry[2:] = 0
        self._declare(number, entry)
        self._regions.sync()
        del self._entries[number]
        self._free.append(self._slots.pop(number))

    def _declare(self, number: int, entry: NDArray[np.uint32]) -> None:
        self._regions.write("live/index", entry, 4 * INDEX_WORDS * number)
