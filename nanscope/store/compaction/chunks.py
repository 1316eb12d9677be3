"""Chunked datasets of a compacted file, read without libhdf5: it would trust what the file says.

`/chunks/<name>` tells of each chunk its offset in the file, its size and its checksum, three u8 each. The
CRC-32 is begun with that of the chunk's own name, so that a chunk in another one's place is found out, too.
"""

from __future__ import annotations

import os
import threading
import weakref
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanscope.errors import RunFileError
from nanscope.run import MISSING
from nanscope.store.compaction.codec import unpack

ABSENT = (2**64 - 1, 0, 0)
"""What stands for a chunk that is all MISSING; zeros would pass for a hole in a damaged file."""

Damaged = set[tuple[str, int, int]]
"""Chunks by dataset, series and number."""
_rescue: ContextVar[Damaged | None] = ContextVar("rescue", default=None)
UNREAD = {"step": -1, "time": float("nan")}
"""What stands for a number that cannot be read; MISSING in all other datasets."""

CACHE_BYTES = 16 << 20
MANY = 8  # chunks from which telling the system beforehand pays


@contextmanager
def rescued() -> Iterator[Damaged]:
    """A block in which a damaged chunk reads as `UNREAD`, not as an error; gives those that were met."""
    damaged: Damaged = set()
    token = _rescue.set(damaged)
    try:
        yield damaged
    finally:
        _rescue.reset(token)


def chunk_crc(data: bytes, name: str, series: int, number: int) -> int:
    """Checksum of a chunk: the `number`-th one of a series of the dataset `name`."""
    return zlib.crc32(data, zlib.crc32(f"{name} {series} {number}".encode()))


class OpenFile:
    """Reads bytes of a file at their offsets; closes it when it is forgotten. Safe for many threads."""

    def __init__(self, name: str, descriptor: int) -> None:
        self.name = name
        self.size = os.fstat(descriptor).st_size
        self._descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)

    def read(self, offset: int, size: int) -> bytes:
        """So many bytes from an offset on.

        Raises:
            RunFileError: they are not there.
        """
        if offset + size > self.size:
            raise self.damaged("points beyond its end")
        data = os.pread(self._descriptor, size, offset)
        if len(data) != size:  # a file that is cut while it is read; Linux reads up to 2 GiB at once
            raise self.damaged("became shorter while it was read")
        return data

    def expect(self, entries: list[list[int]]) -> None:
        """Tell the system which chunks will be read, so that a cold disk gets all requests at once."""
        if hasattr(os, "posix_fadvise"):
            for offset, size, _ in entries:
                if offset + size <= self.size:
                    os.posix_fadvise(self._descriptor, offset, size, os.POSIX_FADV_WILLNEED)

    def array(self, offset: int, count: int, dtype: str) -> NDArray[Any]:
        """So many numbers from an offset on. Raises like `read`."""
        return np.frombuffer(self.read(offset, count * np.dtype(dtype).itemsize), dtype)

    def damaged(self, what: str) -> RunFileError:
        """The error that says what is wrong with the file."""
        return RunFileError(f"{self.name} is damaged: it {what}", "copy it again from where it was compacted")


class Cache:
    """The chunks that were read in part lately: the next request is likely to be for their other rows."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self._limit = limit
        self._bytes = 0
        self._chunks: OrderedDict[tuple[str, int, int], NDArray[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, int, int]) -> NDArray[Any] | None:
        """A chunk by dataset, series and number."""
        with self._lock:
            if key in self._chunks:
                self._chunks.move_to_end(key)
            return self._chunks.get(key)

    def put(self, key: tuple[str, int, int], chunk: NDArray[Any]) -> None:
        """Keep a chunk, and let go of those that were not asked for the longest."""
        with self._lock:
            if key not in self._chunks:
                self._bytes += chunk.nbytes
            self._chunks[key] = chunk
            while self._bytes > self._limit:
                self._bytes -= self._chunks.popitem(last=False)[1].nbytes


@dataclass(frozen=True)
class Chunked:
    """One chunked dataset: so many series of the same length, each in chunks of its own.

    Attributes:
        file, cache: where it is, and where chunks are kept.
        name: the dataset's name below /chunks.
        dtype: type of its numbers as numpy spells it.
        series: number of series.
        planes: numbers at each position of a series; 1 but for summaries.
        length: positions in a series.
        chunk: positions in a chunk.
        index: offset of its /chunks dataset, shape (series, chunks, 3).
    """

    file: OpenFile
    cache: Cache
    name: str
    dtype: str
    series: int
    planes: int
    length: int
    chunk: int
    index: int

    @property
    def chunks(self) -> int:
        """Chunks of each series."""
        return -(-self.length // self.chunk)

    def read(self, series: int, start: int, stop: int) -> NDArray[Any]:
        """Positions start..stop of a series, shape (planes, stop - start).

        Raises:
            RunFileError: the file is damaged there.
        """
        out = np.empty((self.planes, max(0, stop - start)), self.dtype)
        if stop <= start:
            return out
        first, last = start // self.chunk, (stop - 1) // self.chunk
        entries = self.entries(series, first, last + 1).tolist()
        if len(entries) > MANY:
            self.file.expect(entries)
        for number, entry in enumerate(entries, first):
            begin = number * self.chunk
            low, high = max(start, begin), min(stop, begin + self.chunk)
            whole = high - low == self.chunk and self.planes == 1
            target = out[:, low - start : high - start]
            if whole:
                self._load(series, number, entry, target)
            else:
                target[:] = self._kept(series, number, entry)[:, low - begin : high - begin]
        return out

    def entries(self, series: int, first: int, last: int) -> NDArray[np.uint64]:
        """Offset, size and checksum of the chunks first..last of a series."""
        count = 3 * (last - first)
        found = self.file.array(self.index + 24 * (series * self.chunks + first), count, "<u8")
        return found.reshape(-1, 3)

    def _kept(self, series: int, number: int, entry: list[int]) -> NDArray[Any]:
        key = (self.name, series, number)
        chunk = self.cache.get(key)
        if chunk is None:
            chunk = np.empty((self.planes, self.chunk), self.dtype)
            self._load(series, number, entry, chunk)
            if key not in (_rescue.get() or ()):  # to who does not rescue it is an error again
                self.cache.put(key, chunk)
        return chunk

    def _load(self, series: int, number: int, entry: list[int], out: NDArray[Any]) -> None:
        try:
            self._fetch(series, number, entry, out)
        except RunFileError:
            damaged = _rescue.get()
            if damaged is None:
                raise
            damaged.add((self.name, series, number))
            out[:] = UNREAD.get(self.name, MISSING)

    def _fetch(self, series: int, number: int, entry: list[int], out: NDArray[Any]) -> None:
        offset, size, crc = entry
        if tuple(entry) == ABSENT and self.name == "columns":
            out[:] = MISSING
            return
        # deflate never makes more than this of incompressible bytes; a larger chunk is not worth reading
        if size > out.nbytes + out.nbytes // 1000 + 64:
            raise self.file.damaged(f"holds a chunk of {self.name} that is larger than its contents")
        data = self.file.read(offset, size)
        if chunk_crc(data, self.name, series, number) != crc or not unpack(data, out):
            raise self.file.damaged(f"holds a chunk of {self.name} whose checksum is wrong")
