"""An open file as h5py reads it: read-only, and with a record of what was read."""

from __future__ import annotations

import hashlib
import io
import os
from typing import Any

Read = tuple[int, int]
"""Offset and length of a piece of a file."""


class WatchedFile(io.RawIOBase):
    """Reads a descriptor without moving its position, which other processes may share.

    Attributes:
        reads: pieces that were read, in this order.
        digest: of their bytes.
    """

    def __init__(self, descriptor: int) -> None:
        self.reads: list[Read] = []
        self.digest = hashlib.blake2b(digest_size=32)
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size
        self._position = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As any file does."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = origin + offset
        return self._position

    def tell(self) -> int:
        """As any file does."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """As any file does; notes the piece that was asked for."""
        view = memoryview(buffer).cast("B")
        data = read_at(self._descriptor, len(view), self._position)
        self.reads.append((self._position, len(view)))
        self.digest.update(data)
        view[: len(data)] = data
        self._position += len(data)
        return len(data)


def read_at(descriptor: int, length: int, offset: int) -> bytes:
    """At most `length` bytes from an offset."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, length, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)  # Windows has no pread
    return os.read(descriptor, length)
