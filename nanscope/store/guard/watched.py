"""An open file as h5py reads it: read-only, and with a record of what was read."""

from __future__ import annotations

import os
from typing import Any

from nanscope.store.filelike import Positioned

_BYTES, _PIECES = 16 << 20, 2000  # of the record; of a file that needs more, nothing is kept


class WatchedFile(Positioned):
    """Reads a descriptor without moving its position, which other processes may share.

    Attributes:
        pieces: offset and bytes of what was read, in this order; None where it became too much.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(os.fstat(descriptor).st_size)
        self.pieces: list[tuple[int, bytes]] | None = []
        self._kept = 0
        self._descriptor = descriptor

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As any file does; notes what was read."""
        view = memoryview(buffer).cast("B")
        data = read_at(self._descriptor, len(view), self._position)
        self._note(self._position, data)
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _note(self, offset: int, data: bytes) -> None:
        self._kept += len(data)
        if self.pieces is not None and self._kept <= _BYTES and len(self.pieces) < _PIECES:
            self.pieces.append((offset, data))
        else:
            self.pieces = None


def read_at(descriptor: int, length: int, offset: int) -> bytes:
    """At most `length` bytes from an offset."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, length, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)  # Windows has no pread
    return os.read(descriptor, length)
