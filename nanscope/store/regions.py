"""The pre-allocated datasets of an open run file, written by `pwrite` at their known offsets."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from typing import Any

_sync_data: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync


def write_all(descriptor: int, data: Any, offset: int) -> None:
    """`pwrite` until everything is written; a disk that fills up writes less than asked, without an error.

    Raises:
        OSError: the rest cannot be written.
    """
    view = memoryview(data).cast("B")
    done = 0
    while done < len(view):
        count = os.pwrite(descriptor, view[done:], offset + done)
        if count == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done += count


class Regions:
    """Writes into datasets by name. Owns the descriptor.

    Attributes:
        offsets: where each dataset begins, by name.
    """

    def __init__(self, descriptor: int, offsets: Mapping[str, int]) -> None:
        self._descriptor = descriptor
        self.offsets = offsets

    def write(self, dataset: str, data: Any, start: int = 0) -> None:
        """Write bytes, the first one `start` bytes into the dataset.

        Raises:
            OSError: not everything could be written.
        """
        write_all(self._descriptor, data, self.offsets[dataset] + start)

    def sync(self) -> None:
        """Wait until everything written is on the disk itself."""
        _sync_data(self._descriptor)

    @property
    def is_removed(self) -> bool:
        """Whether the file has no name any more."""
        return os.fstat(self._descriptor).st_nlink == 0

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)
