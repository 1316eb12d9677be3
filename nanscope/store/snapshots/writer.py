"""Snapshots while the training runs: copied in its thread, written in another one.

The training pays for one copy into memory that was set aside at the beginning; while a snapshot is still on
its way to the disk the next one is left out. Nothing here raises into the training, and nothing waits but
`close` and `wait`.
"""

from __future__ import annotations

import os
import threading
import time as clock
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np

from nanscope.store.regions import Regions
from nanscope.store.snapshots.slots import (
    CRC_BYTES,
    HEADER_BYTES,
    PIN_OFFSET,
    TABLE_LIMIT,
    Bytes,
    Entry,
    Head,
    Piece,
    pack_head,
    pack_pin,
    pack_table,
    place,
)
from nanscope.warn import warn

WRITE_BYTES = 256 << 10  # at once: the file is locked meanwhile, and a row of the training must not wait long
JOIN_SECONDS = 10.0  # that close() waits for a disk that hangs


class SnapshotRoom(NamedTuple):
    """How many snapshots a run file has room for, and how large each may be."""

    slots: int
    slot_bytes: int


@dataclass(slots=True)
class _Slot:
    """What a slot holds: sequence 0 is nothing; `tried` is the sequence that was last written to it."""

    name: str
    sequence: int = 0
    tried: int = 0
    step: int = -1
    pinned: bool = False


class _Job(NamedTuple):
    slot: _Slot
    sequence: int
    step: int
    time: float
    entries: Sequence[Entry]
    data_bytes: int
    table: bytes


class SnapshotWriter:
    """Writes snapshots into the slots of one run file, from one thread of the training.

    Attributes:
        taken: snapshots that were copied.
        skipped: left out, for the one before was still being written.
        refused: left out, because every slot is pinned or the state is larger than a slot.
        failed: not written, because of the disk.
    """

    def __init__(self, descriptor: int, offsets: Mapping[str, int], slots: int, slot_bytes: int) -> None:
        self.taken = self.skipped = self.refused = self.failed = 0
        self._slots = [_Slot(f"snapshots/slot{i}") for i in range(slots)]
        self._staging: Bytes = np.empty(0, np.uint8)
        self._pid = os.getpid()
        self._sequence = 0
        self._closed = False
        self._told: set[str] = set()
        self._jobs: SimpleQueue[_Job | _Slot | None] = SimpleQueue()
        self._idle = threading.Event()
        self._idle.set()
        # a descriptor of its own: a disk that hangs may outlive the run file's writer
        self._regions = Regions(os.dup(descriptor), offsets)
        self._thread = threading.Thread(target=self._work, name="nanscope-snapshots", daemon=True)
        try:
            self._staging = np.empty(slot_bytes - HEADER_BYTES, np.uint8)
            self._staging.fill(0)  # the system gives the memory now, not in the midst of a step
            self._thread.start()
        except (MemoryError, RuntimeError) as error:  # a run that goes on in another part must go on
            self._give_up()
            self._warn("start", str(error))

    # The training's thread

    def put(self, step: int, time: float, pieces: Mapping[str, Piece], meta: Mapping[str, Any]) -> bool:
        """Copy a state and leave it to the thread to write it.

        The slot with the oldest snapshot is taken, never the only one that holds one, nor a pinned one.

        Args:
            step: step before which, or after which, the state was taken, as `meta` says.
            time: seconds since the run began.
            pieces: the arrays, by a printable name of at most 1,000 letters.
            meta: JSON types.

        Returns:
            Whether it was copied; False when the one before is still being written, when it does not fit or
            all slots are pinned, in a forked child, and after `close`.
        """
        if self._closed or self._has_forked():
            return False
        if not self._idle.is_set():
            self.skipped += 1
            return False
        slot = self._oldest()
        entries, data_bytes = place(pieces)
        table = pack_table(entries, meta)
        if slot is None or not self._fits(data_bytes, len(table), len(entries)):
            self.refused += 1
            return False
        for entry in entries:
            pieces[entry.name].copy_to(self._staging[entry.offset : entry.offset + entry.nbytes])
        self._sequence += 1
        self.taken += 1
        slot.tried, slot.step = self._sequence, step
        self._idle.clear()
        self._jobs.put(_Job(slot, self._sequence, step, time, entries, data_bytes, table))
        return True

    def pin(self, step: int) -> bool:
        """Keep the newest snapshot of a step for good, also one that is still being written.

        Returns:
            Whether there is one; it stays pinned unless writing it fails.
        """
        if self._closed or self._has_forked():
            return False
        held = [slot for slot in self._slots if slot.step == step]
        if not held:
            return False
        slot = max(held, key=lambda slot: slot.tried)
        slot.pinned = True
        self._jobs.put(slot)
        return True

    def wait(self, timeout: float = JOIN_SECONDS) -> bool:
        """Wait until the last snapshot is on the disk, or given up; False when that takes too long."""
        return self._has_forked() or self._idle.wait(timeout)

    def close(self) -> None:
        """Finish what is being written; a disk that hangs is left to the thread. Again: does nothing."""
        if self._closed or self._has_forked():
            return
        self._closed = True
        self._jobs.put(None)
        self._thread.join(JOIN_SECONDS)
        if not self._thread.is_alive():
            self._staging = np.empty(0, np.uint8)

    def _has_forked(self) -> bool:
        """Whether this is a child of the recording process: the slots are the parent's alone."""
        if os.getpid() == self._pid:
            return False
        if not self._closed:
            self._give_up()
        return True

    def _give_up(self) -> None:
        self._closed = True
        self._staging = np.empty(0, np.uint8)
        self._regions.close()

    def _oldest(self) -> _Slot | None:
        """The slot to overwrite: an empty one before any other, but one that just failed last."""
        whole = [slot for slot in self._slots if slot.sequence]
        only = whole[0] if len(whole) == 1 and len(self._slots) > 1 else None
        free = [slot for slot in self._slots if not slot.pinned and slot is not only]
        return min(free, key=lambda slot: slot.tried, default=None)

    def _fits(self, data_bytes: int, table_bytes: int, entries: int) -> bool:
        needed = data_bytes + table_bytes + CRC_BYTES * entries
        if needed <= len(self._staging) and table_bytes <= TABLE_LIMIT:
            return True
        self._warn("size", f"one of {needed:,} bytes does not fit into its slot of {len(self._staging):,}")
        return False

    # The thread

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                if isinstance(job, _Slot):
                    self._mark(job)
                else:
                    self._write(job)
            except OSError as error:
                reason = os.strerror(error.errno) if error.errno else str(error)
                self._warn("disk", f"one could not be written: {reason}")
            finally:
                if isinstance(job, _Job):
                    self._settle(job.slot)
        self._regions.close()

    def _write(self, job: _Job) -> None:
        name, slot = job.slot.name, job.slot
        slot.sequence = 0
        self._regions.write(name, bytes(HEADER_BYTES))
        self._regions.sync()
        data = self._staging.data
        crcs = [zlib.crc32(data[e.offset : e.offset + e.nbytes]) for e in job.entries]
        for start in range(0, job.data_bytes, WRITE_BYTES):
            stop = min(start + WRITE_BYTES, job.data_bytes)
            self._regions.write(name, data[start:stop], HEADER_BYTES + start)
            clock.sleep(0)  # to whoever waits for the file or for Python
        table = job.table + np.array(crcs, "<u4").tobytes()
        self._regions.write(name, table, HEADER_BYTES + job.data_bytes)
        self._regions.sync()
        head = Head(
            entries=len(job.entries),
            sequence=job.sequence,
            step=job.step,
            time=job.time,
            data_bytes=job.data_bytes,
            table_bytes=len(job.table),
            table_crc=zlib.crc32(table),
        )
        self._regions.write(name, pack_head(head))
        self._regions.sync()
        slot.sequence = job.sequence

    def _mark(self, slot: _Slot) -> None:
        if not slot.sequence:  # it failed while the training asked for the pin
            slot.pinned = False
            return
        self._regions.write(slot.name, pack_pin(slot.sequence), PIN_OFFSET)
        self._regions.sync()

    def _settle(self, slot: _Slot) -> None:
        if not slot.sequence:
            self.failed += 1
            slot.step, slot.pinned = -1, False
        self._idle.set()

    def _warn(self, kind: str, message: str) -> None:
        """Say each kind of thing once."""
        if kind in self._told:
            return
        self._told.add(kind)
        warn(f"nanscope leaves out snapshots of the state: {message}; the training goes on")
