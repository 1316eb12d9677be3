"""A file for h5py that never fails: libhdf5 crashes the process at exit when a write of its own failed."""

from __future__ import annotations

import os
from typing import Any

from nanscope.store.filelike import Pieces
from nanscope.store.regions import write_all


class Through(Pieces):
    """Writes through to a descriptor; after the first error only into memory, so that libhdf5 ends in peace.

    Attributes:
        error: what went wrong, None so far. The file on the disk is then worth nothing.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.error: OSError | None = None
        self._descriptor = descriptor

    def write(self, data: Any) -> int:
        """Write all of it, or remember why not."""
        piece = bytes(data)
        try:
            if self.error is None:
                write_all(self._descriptor, piece, self._position)
                return self._advance(len(piece))
        except OSError as error:
            self.error = error
        return super().write(piece)

    def truncate(self, size: int | None = None) -> int:
        """Set the size."""
        wanted = super().truncate(size)
        try:
            if self.error is None:
                os.ftruncate(self._descriptor, wanted)
        except OSError as error:
            self.error = error
        return wanted

    def _below(self, size: int) -> bytes:
        try:
            return os.pread(self._descriptor, size, self._position)
        except OSError as error:
            self.error = self.error or error
            return b""
