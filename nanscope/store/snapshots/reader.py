"""The snapshots of a run file, read without torch: whole ones only, newest first.

How a state lies in the file is said in `slots.py`. Whoever made the file may have meant harm: sizes, shapes
and places are checked before they are used, and nothing is read beyond its slot.
"""

from __future__ import annotations

import os
import weakref
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanscope.errors import RunFileError
from nanscope.store.snapshots.slots import (
    CRC_BYTES,
    HEADER_BYTES,
    PIN_OFFSET,
    TABLE_LIMIT,
    Entry,
    Head,
    is_pinned,
    numpy_dtype,
    parse_table,
    unpack_head,
)

_PAGE = PIN_OFFSET + 64  # bytes of the header's page that are used
_CHUNK = 1 << 20  # bytes that are checked at once
_TRIES = 20  # the slots of a live file may change while they are read


class _File:
    """Reads a file through a descriptor of its own, which it closes when it is forgotten."""

    def __init__(self, descriptor: int, name: str) -> None:
        self.name = name
        self._descriptor = os.dup(descriptor)
        weakref.finalize(self, os.close, self._descriptor)

    def fill(self, out: NDArray[np.uint8], offset: int) -> None:
        """Fill with the bytes from an offset on.

        Raises:
            RunFileError: the file ends before.
        """
        view, done = out.data, 0
        while done < len(view):
            count = os.preadv(self._descriptor, [view[done:]], offset + done)
            if count == 0:
                raise RunFileError(f"{self.name} became shorter while it was read", "open it again")
            done += count

    def read(self, offset: int, size: int) -> bytes:
        """So many bytes from an offset on. Raises like `fill`."""
        out = np.empty(size, np.uint8)
        self.fill(out, offset)
        return out.tobytes()


@dataclass(frozen=True)
class Snapshot:
    """One state of a training, as it was stored.

    Attributes:
        step: step at which it was taken.
        time: seconds since the run began.
        sequence: grows with each snapshot of a file.
        pinned: kept for good, as the state before the trouble is.
        entries: the arrays in it, by name.
        meta: what its writer noted, as JSON types and as it was: text in it is not clean.
        nbytes: bytes that it takes in the file.
    """

    step: int
    time: float
    sequence: int
    pinned: bool
    entries: Mapping[str, Entry]
    meta: Mapping[str, Any]
    nbytes: int
    _crcs: Mapping[str, int]
    _file: _File
    _offset: int

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the arrays, in the order of the file."""
        return tuple(self.entries)

    def array(self, name: str) -> NDArray[Any]:
        """One array, read and checked now.

        Returns:
            Its elements in its shape; of a dtype that numpy does not know (`entries[name].dtype`) their bits
            as unsigned integers of the same size.

        Raises:
            KeyError: no such array.
            RunFileError: it is damaged, or a live run has overwritten it meanwhile.
        """
        entry = self.entries[name]
        data = np.empty(entry.nbytes, np.uint8)
        self._file.fill(data, self._offset + entry.offset)
        if zlib.crc32(data.data) != self._crcs[name]:
            raise RunFileError(
                f"{self._file.name} no longer holds the snapshot of step {self.step} as it was",
                "a live run may have overwritten it: open the file again",
            )
        return data.view(numpy_dtype(entry.dtype)).reshape(entry.shape)

    def is_whole(self) -> bool:
        """Whether every array has its checksum; takes a read of all of them, and 1 MiB of memory."""
        return all(self._crc(entry) == self._crcs[entry.name] for entry in self.entries.values())

    def _crc(self, entry: Entry) -> int:
        crc, buffer = 0, np.empty(min(_CHUNK, entry.nbytes), np.uint8)
        for start in range(0, entry.nbytes, _CHUNK):
            part = buffer[: entry.nbytes - start]
            self._file.fill(part, self._offset + entry.offset + start)
            crc = zlib.crc32(part.data, crc)
        return crc


def read_snapshots(
    descriptor: int,
    offsets: Mapping[str, int],
    slots: int,
    slot_bytes: int,
    name: str = "the run file",
    *,
    check: bool = True,
) -> tuple[Snapshot, ...]:
    """The snapshots that are whole, newest first.

    Args:
        descriptor: of the open file; it may be closed afterwards.
        offsets: where each dataset begins, by name.
        slots: number of slots, `snapshots/slot0` ...
        slot_bytes: size of each.
        name: how messages call the file.
        check: read all arrays to see that they are whole. Without, a list is made in no time, in which one
            may have lost its arrays in a power cut; reading those will say so.

    Raises:
        RunFileError: a snapshot describes what cannot be.
    """
    file = _File(descriptor, name)
    starts = [offsets[f"snapshots/slot{i}"] for i in range(slots)]
    torn: set[int] = set()
    for _ in range(_TRIES):
        found = [s for s in (_read(file, start, slot_bytes) for start in starts) if s is not None]
        found.sort(key=lambda snapshot: -snapshot.sequence)  # the oldest is the next to be overwritten
        whole = tuple(s for s in found if not check or _is_whole(s, torn))
        if whole:
            return whole
    return ()


def _is_whole(snapshot: Snapshot, torn: set[int]) -> bool:
    """Whether it is whole; the sequences of those that are not are remembered and not read again."""
    if snapshot.sequence not in torn and not snapshot.is_whole():
        torn.add(snapshot.sequence)
    return snapshot.sequence not in torn


def _read(file: _File, offset: int, slot_bytes: int) -> Snapshot | None:
    if slot_bytes < HEADER_BYTES:
        raise _malformed(file, "its slot has no room for a header")
    page = file.read(offset, _PAGE)
    head = unpack_head(page)
    if head is None:
        return None
    if head.nbytes > slot_bytes or head.table_bytes > TABLE_LIMIT or head.entries > head.table_bytes:
        raise _malformed(file, "it is larger than its slot or its table than any")
    start = offset + HEADER_BYTES
    table = file.read(start + head.data_bytes, head.table_bytes + CRC_BYTES * head.entries)
    if zlib.crc32(table) != head.table_crc:
        return None
    return _snapshot(file, start, head, table, is_pinned(page, head.sequence))


def _snapshot(file: _File, start: int, head: Head, table: bytes, pinned: bool) -> Snapshot:
    try:
        entries, meta = parse_table(table[: head.table_bytes], head)
    except ValueError as error:
        raise _malformed(file, f"its table {error}") from None
    crcs = np.frombuffer(table[head.table_bytes :], "<u4").tolist()
    return Snapshot(
        step=head.step,
        time=head.time,
        sequence=head.sequence,
        pinned=pinned,
        entries={entry.name: entry for entry in entries},
        meta=meta,
        nbytes=head.nbytes,
        _crcs={entry.name: crc for entry, crc in zip(entries, crcs, strict=True)},
        _file=file,
        _offset=start,
    )


def _malformed(file: _File, what: str) -> RunFileError:
    return RunFileError(f"{file.name} holds a malformed snapshot: {what}", "do not use this file")
