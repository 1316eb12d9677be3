"""The run file while it is being written: a ring of rows in the hot path, a thread for everything else.

A row is put into the ring in memory and, in row mode, into the ring in the file. The thread writes what the
hot path did not (batch mode, or after an error), hands every finished block of rows on to be written (see
`blocks.py`), and keeps the head and the disk up to date. Rows leave the ring only when their block is on the
disk itself or was given up, so the ring always holds the newest rows, also on a full disk.

Nothing here raises into the training: after an OSError it warns once and tries again each second.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import threading
import time as clock
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from nanscope.run import Floats
from nanscope.store.blocks import Blocks
from nanscope.store.head import HEAD_SLOT, STATES, Head, pack_head
from nanscope.store.layout import Layout
from nanscope.store.process import started
from nanscope.store.regions import Regions
from nanscope.store.ring import Ring
from nanscope.store.schema import EVENT_BYTES
from nanscope.warn import warn

Mode = Literal["row", "batch"]

ROW_TICK, BATCH_TICK = 0.25, 0.05  # seconds between two looks of the thread at what there is to do
SYNC_SECONDS = 1.0
RETRY_SECONDS = 1.0
PATIENCE_SECONDS = 1.0  # that the training waits for room in the ring, and not again within RETRY_SECONDS
JOIN_SECONDS = 10.0  # that close() waits for a disk that hangs

ROW_SHARE = 0.01  # of a step's time that writing its row at once may take
ARMED_ROWS = 1000  # rows that are written at once after one that mattered


class LiveFile:
    """Writes rows and events into one published run file.

    Attributes:
        rows: rows taken so far.
    """

    def __init__(self, path: Path, regions: Regions, layout: Layout, mode: Mode | None = None) -> None:
        self.path = path
        self.layout = layout
        self.rows = 0
        self._regions = regions
        self._blocks = Blocks(regions, layout)
        self._ring = Ring(layout)
        self._started = started(os.getpid())
        self._mode = mode
        self._row_mode = mode != "batch"
        self._armed_until = 0  # row mode whatever it costs, up to this row
        self._room = layout.ring  # rows that may wait in the ring; 0 once closed
        self._written = 0  # rows that are in the file's ring
        self._held = 0  # rows in memory that others follow at once: they do not count yet
        self._done = 0  # rows whose block is written or given up
        self._freed = 0  # rows whose place in the ring may be taken: their block is on the disk itself
        self._stored = 0  # rows up to the end of the last block that was written
        self._durable_blocks = 0
        self._synced = -1, -1  # rows written and done when the disk was last waited for
        self._event_bytes = 0
        self._lost_rows = self._lost_events = 0
        self._sequence = 1  # the first head was published with the file
        self._warned = False
        self._retry_at = self._stalled_until = self._sync_at = 0.0
        self._lock = threading.Lock()  # for the newest row (amended or written) and the events
        self._wake, self._stop = threading.Event(), threading.Event()
        self._row_seconds = self._time_of_a_row()
        self._looked = (clock.monotonic(), 0)
        self._thread = threading.Thread(target=self._work, name="nanscope-writer", daemon=True)
        with contextlib.suppress(RuntimeError):  # no thread to be had: the training makes the rounds
            self._thread.start()

    @property
    def is_full(self) -> bool:
        """Whether there is no room for the block that the next row belongs to."""
        return self.rows >= self.layout.rows

    @property
    def event_room(self) -> int:
        """Bytes that are left for events."""
        return EVENT_BYTES - self._event_bytes

    # The training's thread

    def append(self, step: int, time: float, values: Floats, *, more: bool = False) -> None:
        """Take one row; with `more` to follow at once, it is written together with them."""
        row = self.rows + self._held
        if row - self._freed >= self._room:
            self._let_go()
            if not self._wait_for_room():
                return
        self._ring.put(row, step, time, values)
        self._held += 1
        if not more:
            self._let_go()

    def _let_go(self) -> None:
        """The rows that were held back count from now on."""
        first, stop = self.rows, self.rows + self._held
        if self._row_mode and self._written == first:
            self._write_to_disk(stop)
        self.rows, self._held = stop, 0
        if -first % self.layout.block < stop - first:  # one of them is the first after a block
            self._call_thread()

    def amend(self, values: Floats) -> None:
        """Replace the values of the newest row; a kill in the midst of it leaves the old or the new ones."""
        self._let_go()
        row = self.rows - 1
        if row < 0 or not self._room:
            return
        with self._lock:
            self._ring.replace(row, values)
            if self._written == self.rows:
                self._attempt(lambda: self._regions.write("live/amended", self._ring.sealed(row)[0]))
            self._written = min(self._written, row)
            if self._row_mode and self._written == row:
                self._write_to_disk(row + 1)

    def keep(self) -> None:
        """The rows around the newest one matter: they stay whole, the next ones are written at once."""
        self._let_go()
        self._blocks.keep(self.rows // self.layout.block)
        self._armed_until = self.rows + ARMED_ROWS
        self._row_mode = True

    def lose_row(self) -> None:
        """Count a row that cannot be stored."""
        self._lost_rows += 1

    def note(self, line: bytes) -> bool:
        """Write one event at once; False when it is lost."""
        with self._lock:
            fits = self._event_bytes + len(line) <= EVENT_BYTES
            if not (self._room and fits and self._attempt(lambda: self._put_event(line))):
                self.lose_event()
                return False
        return True

    def lose_event(self) -> None:
        """Count an event that cannot be stored."""
        self._lost_events += 1

    def close(self, state: str) -> None:
        """Write what is left and the final state. A second call does nothing."""
        code = STATES.index(state)
        if not self._room:
            return
        self._let_go()
        self._room = 0
        self._stop.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(JOIN_SECONDS)
        if self._thread.is_alive():  # the disk hangs: leave the descriptor to the thread
            return
        self._retry_at = 0.0
        self._round()
        self._attempt(self._sync)
        self._attempt(lambda: self._put_head(code))
        self._attempt(self._regions.sync)
        self._regions.close()

    def abandon(self) -> None:
        """In a forked child: let go of the parent's file without a trace."""
        self._room = 0
        self._lock = threading.Lock()  # the parent may have held it when it forked
        self._regions.close()

    def _call_thread(self) -> None:
        """A block is full. A thread that could not be had, or died, is stood in for."""
        self._wake.set()
        if not self._thread.is_alive() and self._room:
            self._round_safely()

    def _wait_for_room(self) -> bool:
        now = clock.monotonic()
        until = now + PATIENCE_SECONDS if now >= self._stalled_until else now
        while self._room and clock.monotonic() < until:
            self._call_thread()
            clock.sleep(0.0005)
            if self.rows - self._freed < self._room:
                return True
        if self._room:
            self.lose_row()
            if now >= self._stalled_until:
                self._stalled_until = clock.monotonic() + RETRY_SECONDS
                self._warn("the disk is too slow")
        return False

    def _write_to_disk(self, stop: int) -> None:
        """Write the rows that wait, up to `stop`."""
        try:
            for span in self._ring.spans(self._written, stop):
                self._regions.write("live/ring", *span)
        except OSError as error:
            self._failed(error)  # the thread tries again
        else:
            self._written = stop

    # The writer's thread; close() goes on in its place

    def _work(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(ROW_TICK if self._row_mode else BATCH_TICK)
            self._wake.clear()
            self._round_safely()

    def _round_safely(self) -> None:
        try:
            self._choose_mode()
            self._round()
        except Exception as error:  # noqa: BLE001 - such as MemoryError: the next round may have better luck
            self._warn(repr(error))

    def _time_of_a_row(self) -> float:
        """Seconds that it takes to write one row at once."""
        times, row = [], bytes(self.layout.row_bytes)
        for _ in range(9):
            start = clock.perf_counter()
            self._attempt(lambda: self._regions.write("live/ring", row))
            times.append(clock.perf_counter() - start)
        return statistics.median(times)

    def _choose_mode(self) -> None:
        """Row mode where writing a row costs little of a step, and while something may be wrong."""
        now, rows = clock.monotonic(), self.rows
        since, before = self._looked
        if self._mode is None and rows > before and now - since >= BATCH_TICK:
            self._looked = now, rows
            cheap = self._row_seconds <= ROW_SHARE * (now - since) / (rows - before)
            self._row_mode = cheap or rows < self._armed_until

    def _round(self) -> None:
        self._write_rows()
        self._write_blocks()
        crowded = 2 * (self.rows - self._freed) > self.layout.ring
        if (crowded and self._done > self._freed) or clock.monotonic() >= self._sync_at:
            self._sync_at = clock.monotonic() + SYNC_SECONDS
            if not self._attempt(self._sync) and self._is_crowded:
                self._freed = self._done  # the newest rows are worth more than the promise

    def _write_rows(self) -> None:
        for _ in range(4):  # in row mode the training writes on by itself as soon as nothing is behind
            if self._written >= self.rows or not self._attempt(self._put_rows):
                return

    def _put_rows(self) -> None:
        """Bring the file's ring up to date."""
        stop = self.rows
        start = max(self._written, stop - self.layout.ring)
        for span in self._ring.spans(start, stop - 1):
            self._regions.write("live/ring", *span)
        with self._lock:  # the newest row may be amended meanwhile
            self._regions.write("live/ring", *self._ring.sealed(stop - 1))
            self._written = stop

    def _write_blocks(self) -> None:
        """Write every finished block; its newest row must be final, so one row must follow it."""
        block = self.layout.block
        while self._done + block < self.rows:
            crowded = self._is_crowded
            if not self._write_block(self._done // block) and not crowded:
                return  # there is room to try again later; else the oldest rows give way to the newest
            self._done += block
            if crowded and self._retry_at > clock.monotonic():
                self._freed = self._done
            self._attempt(self._put_head)
            self._write_rows()  # a block takes a while, and a kill must not cost that while

    @property
    def _is_crowded(self) -> bool:
        """Whether less than a block's room is left in the ring."""
        return self.rows - self._freed >= self.layout.ring - self.layout.block

    def _write_block(self, number: int) -> bool:
        if number >= self.layout.blocks:
            return False  # full, and no further part could be made: the ring keeps the newest rows
        if clock.monotonic() < self._retry_at:
            return False
        written = self._attempt(lambda: self._put_block(number))
        if written:
            self._stored = (number + 1) * self.layout.block
        else:
            self._retry_at = clock.monotonic() + RETRY_SECONDS
        return written

    def _put_block(self, number: int) -> None:
        self._blocks.write(number, *self._ring.block(number))

    def _put_event(self, line: bytes) -> None:
        self._regions.write("live/events", line, self._event_bytes)
        self._event_bytes += len(line)

    def _put_head(self, state: int = 0) -> None:
        self._sequence += 1
        head = Head(
            sequence=self._sequence,
            rows=min(self._written, self.rows),
            blocks=self._done // self.layout.block,
            durable_blocks=self._durable_blocks,
            lost_rows=self._lost_rows + (self._never_written if state else 0),
            lost_events=self._lost_events,
            heartbeat=clock.time(),
            pid=os.getpid(),
            started=self._started,
            state=state,
        )
        self._regions.write("live/head", pack_head(head), self._sequence % 2 * HEAD_SLOT)

    @property
    def _never_written(self) -> int:
        """Rows at the end that are only in memory: once the file is closed they are lost."""
        return max(0, self.rows - max(self._written, self._stored))

    def _sync(self) -> None:
        written, done = self._written, self._done
        if (written, done) != self._synced:
            self._regions.sync()
            if self._regions.is_removed:
                self._warn("the file was removed")
            self._durable_blocks, self._synced = done // self.layout.block, (written, done)
        self._put_head()  # before the ring moves on: a reader needs one of both
        self._freed = done

    def _attempt(self, action: Callable[[], None]) -> bool:
        try:
            action()
        except Exception as error:  # noqa: BLE001 - whatever it is, the rows to come must find room
            self._failed(error)
            return False
        return True

    def _failed(self, error: Exception) -> None:
        errno = error.errno if isinstance(error, OSError) else None
        self._warn(os.strerror(errno) if errno else repr(error))

    def _warn(self, reason: str) -> None:
        """Say it once."""
        if self._warned:
            return
        self._warned = True
        warn(f"nanscope cannot write all of {self.path}: {reason}; the training goes on")
