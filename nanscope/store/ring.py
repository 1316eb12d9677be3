"""The newest rows in memory, byte by byte as they are in the ring of the file."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from nanscope.run import Floats
from nanscope.store.layout import ROW_HEAD, ROW_HEAD_WORDS, Layout


class Ring:
    """Rows by number; a row takes the place of the one `layout.ring` rows before it."""

    def __init__(self, layout: Layout) -> None:
        self._rows, self._size, self._block = layout.ring, layout.row_bytes, layout.block
        self._words = np.zeros((layout.ring, layout.row_bytes // 4), "<u4")
        self._values: Floats = self._words[:, ROW_HEAD_WORDS : ROW_HEAD_WORDS + layout.columns].view("<f4")
        self._bytes = self._words.data.cast("B")

    def put(self, row: int, step: int, time: float, values: Floats) -> None:
        """Take a row; it gets its checksum when it is written."""
        place = row % self._rows
        self._values[place] = values
        ROW_HEAD.pack_into(self._bytes, place * self._size, row, step, time)

    def replace(self, row: int, values: Floats) -> None:
        """Give a row other values."""
        self._values[row % self._rows] = values

    def sealed(self, row: int) -> tuple[memoryview, int]:
        """A row with its checksum, and where in the file's ring it goes."""
        start = row % self._rows * self._size
        end = start + self._size
        crc = zlib.crc32(self._bytes[start : end - 4])
        self._bytes[end - 4 : end] = crc.to_bytes(4, "little")
        return self._bytes[start:end], start

    def spans(self, start: int, stop: int) -> Iterator[tuple[memoryview, int]]:
        """The rows start..stop like `sealed`, as many at once as lie one after the other."""
        while start < stop:
            place = start % self._rows
            count = min(stop - start, self._rows - place)
            for row in range(start, start + count):
                self.sealed(row)
            begin = place * self._size
            yield self._bytes[begin : begin + count * self._size], begin
            start += count

    def block(self, number: int) -> tuple[NDArray[np.uint32], Floats]:
        """The rows of a block, shape (rows, words), and the values in them, shape (rows, columns)."""
        first = number * self._block % self._rows
        rows = slice(first, first + self._block)
        return self._words[rows], self._values[rows]
