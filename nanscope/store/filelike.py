"""What h5py takes for a file: objects with a position, some of them with nothing behind them but memory."""

from __future__ import annotations

import io
from typing import Any


class Positioned(io.RawIOBase):
    """The part that all of them share."""

    def __init__(self, size: int = 0) -> None:
        self._position = 0
        self._size = size

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; at and beyond the end, too."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = origin + offset
        return self._position

    def tell(self) -> int:
        """Where the next byte is."""
        return self._position

    def truncate(self, size: int | None = None) -> int:
        """Set the size."""
        self._size = self._position if size is None else size
        return self._size

    def _advance(self, count: int) -> int:
        self._position += count
        self._size = max(self._size, self._position)
        return count


class Pieces(Positioned):
    """A file in memory that keeps only what was written; the gigabytes of holes between cost nothing.

    Attributes:
        written: offset and bytes, in the order of writing; a later one may lie over an earlier one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.written: list[tuple[int, bytes]] = []

    def write(self, data: Any) -> int:
        """Keep all of it."""
        piece = bytes(data)
        self.written.append((self._position, piece))
        return self._advance(len(piece))

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer; what was never written reads as what is below, or zeros."""
        view = memoryview(buffer).cast("B")
        below = self._below(len(view))
        view[:] = below + bytes(len(view) - len(below))
        for offset, piece in self.written:
            start = max(offset, self._position)
            stop = min(offset + len(piece), self._position + len(view))
            if start < stop:
                view[start - self._position : stop - self._position] = piece[start - offset : stop - offset]
        self._position += len(view)
        return len(view)

    def _below(self, _size: int) -> bytes:
        return b""
