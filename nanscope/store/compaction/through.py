"""A file for h5py that never fails: libhdf5 crashes the process at exit when a write of its own failed."""

from __future__ import annotations

import io
import os
from typing import Any

from nanscope.store.regions import write_all


class Through(io.RawIOBase):
    """Writes through to a descriptor; after the first error only into memory, so that libhdf5 ends in peace.

    Attributes:
        error: what went wrong, None so far. The file on the disk is then worth nothing.
    """

    def __init__(self, descriptor: int) -> None:
        self.error: OSError | None = None
        self._descriptor = descriptor
        self._position = 0
        self._size = 0
        self._kept: list[tuple[int, bytes]] = []

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; at and beyond the end, too."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = origin + offset
        return self._position

    def tell(self) -> int:
        """Where the next byte goes."""
        return self._position

    def write(self, data: Any) -> int:
        """Write all of it, or remember why not."""
        piece = bytes(data)
        try:
            if self.error is None:
                write_all(self._descriptor, piece, self._position)
        except OSError as error:
            self.error = error
        if self.error is not None:
            self._kept.append((self._position, piece))
        self._position += len(piece)
        self._size = max(self._size, self._position)
        return len(piece)

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer; what was never written reads as zeros."""
        view = memoryview(buffer).cast("B")
        data = self._pread(len(view))
        view[:] = data + bytes(len(view) - len(data))
        for offset, piece in self._kept:
            start = max(offset, self._position)
            stop = min(offset + len(piece), self._position + len(view))
            if start < stop:
                view[start - self._position : stop - self._position] = piece[start - offset : stop - offset]
        self._position += len(view)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the size."""
        self._size = self._position if size is None else size
        try:
            if self.error is None:
                os.ftruncate(self._descriptor, self._size)
        except OSError as error:
            self.error = error
        return self._size

    def _pread(self, size: int) -> bytes:
        try:
            return os.pread(self._descriptor, size, self._position)
        except OSError as error:
            self.error = self.error or error
            return b""
