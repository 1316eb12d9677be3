"""The numeric datasets of an open run file, read by `pread` at their known offsets.

libhdf5 is only asked where they are. It keeps what it read in buffers of its own, which another process
changes behind its back while the run is live; a plain read always sees the file as it is.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanscope.errors import RunFileError
from nanscope.store.layout import Layout


class RawFile:
    """Reads bytes of the pre-allocated datasets; closes the file when it is forgotten."""

    def __init__(self, name: str, descriptor: int, layout: Layout, offsets: dict[str, int]) -> None:
        self.name = name
        self.layout = layout
        self._descriptor = descriptor
        self._offsets = offsets
        weakref.finalize(self, os.close, descriptor)

    def read(self, dataset: str, dtype: str, count: int, start: int = 0) -> NDArray[Any]:
        """`count` values of a dataset, the first one `start` bytes into it."""
        out = np.empty(count, dtype)
        self._read_into(out.view(np.uint8).data, self._offsets[dataset] + start)
        return out

    def at(self, offset: int, size: int) -> bytes:
        """Bytes from anywhere in the file."""
        out = np.empty(size, np.uint8)
        self._read_into(out.data, offset)
        return out.tobytes()

    def stripes(self, dataset: str, dtype: str, starts: Sequence[int], count: int) -> NDArray[Any]:
        """`count` values at each of the given byte positions in a dataset, shape (starts, count)."""
        out = np.empty((len(starts), count), dtype)
        view, size, base = (
            out.reshape(-1).view(np.uint8).data,
            count * out.itemsize,
            self._offsets[dataset],
        )
        for i, start in enumerate(starts):
            self._read_into(view[i * size : (i + 1) * size], base + start)
        return out

    def read_into(self, dataset: str, out: NDArray[Any], start: int = 0) -> None:
        """Fill a contiguous array with the bytes of a dataset, the first one `start` bytes into it."""
        self._read_into(out.reshape(-1).view(np.uint8).data, self._offsets[dataset] + start)

    def _read_into(self, view: memoryview, offset: int) -> None:
        done = 0
        while done < len(view):
            count = os.preadv(self._descriptor, [view[done:]], offset + done)
            if count == 0:
                raise RunFileError(f"{self.name} became shorter while it was read", "open it again")
            done += count
