"""`RunWriter`: the run file as the recorder sees it."""

from __future__ import annotations

import os
import time as clock
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nanscope.errors import RunFileExistsError, UsageError
from nanscope.run import Column, Floats, Header
from nanscope.store.head import HEAD_SLOT, Head, pack_head
from nanscope.store.image import Identity, build_image
from nanscope.store.journal import frame
from nanscope.store.layout import DEFAULT_BUDGET, Layout
from nanscope.store.live import RETRY_SECONDS, LiveFile, Mode
from nanscope.store.parts import part_names
from nanscope.store.process import started
from nanscope.store.publish import publish
from nanscope.store.regions import Regions
from nanscope.store.schema import EVENT_BYTES, EVENT_BYTES_RESERVED
from nanscope.store.snapshots.slots import Piece
from nanscope.store.snapshots.writer import SnapshotRoom, SnapshotWriter
from nanscope.values import Epoch
from nanscope.warn import warn

MOST_COLUMNS = 250_000  # beyond it the newest rows alone would take more memory than a reader gives them
LARGEST_CONFUSION = 100  # classes; beyond it the matrix would crowd out everything else


class RunWriter:
    """Records one training into a new run file, and into further parts of it when it is full.

    After `create` nothing raises for the file's sake: what cannot be written is counted in the file, and said
    once as a warning. A process forked from the recording one that goes on appending gets a run file of its
    own, `run.fork<pid>.h5`. Rows come from one thread; events may come from any. While the disk hangs a row
    waits at most a second; an event or an amended row waits until it answers.

    Attributes:
        path: the file of the first part, by which the run is opened, as it was given.
        location: the same as an absolute path: the program may change its directory.
        part: number of the part that is being written, from 1.
    """

    def __init__(
        self, path: Path, header: Header, layout: Layout, *, budget: int, mode: Mode | None, run_id: str
    ) -> None:
        self.path, self.location = path, path.absolute()
        self.part = 1
        self._header = header
        self._budget, self._mode, self._run_id = budget, mode, run_id
        self._pid = os.getpid()
        self._fits = True  # whether rows have the columns of the file that is being written
        self._retry_at = 0.0  # when another part is tried again that was wanted and could not be made
        self._name_columns()
        self._live, self._snapshots = self._make(path, layout)

    @classmethod
    def create(
        cls,
        path: Path,
        header: Header,
        *,
        capacity: int | None = None,
        budget: int = DEFAULT_BUDGET,
        layout: Layout | None = None,
        mode: Mode | None = None,
        snapshots: SnapshotRoom | None = None,
    ) -> RunWriter:
        """Make the run file, complete with room for all rows (sparse), and begin to write it.

        Args:
            path: a name that is free, in a folder that exists.
            header: what is known before the first row.
            capacity: steps to come, when known; else room for 2**20. Beyond it the run goes on in another
                part.
            budget: bytes that a part may take. Beyond it blocks in the middle are thinned to their summaries.
            layout: other sizes than the ones that fit `header`, `capacity` and `budget`.
            mode: `row` writes each row at once, `batch` leaves it to a thread; None chooses by what a row
                costs, measured, and how long a step takes.
            snapshots: room for states of the training in each part, beside the budget; none by default.

        Raises:
            RunFileExistsError: the name is taken; nothing was touched.
            UsageError: no column or too many, or the folder is missing, cannot be written, or has no space.
        """
        if not header.columns:
            raise UsageError("a run file needs at least one column", "record a scalar such as loss")
        if len(header.columns) > MOST_COLUMNS:
            raise UsageError(
                f"{len(header.columns):,} columns are more than a run file holds ({MOST_COLUMNS:,})",
                "record a part of the model",
            )
        sizes = layout or Layout.for_run(len(header.columns), capacity, budget)
        if snapshots is not None:
            slots, slot_bytes = snapshots
            sizes = replace(sizes, snapshot_slots=slots, snapshot_bytes=slot_bytes)
        return cls(path, header, sizes, budget=budget, mode=mode, run_id=uuid.uuid4().hex)

    def append(self, step: int, time: float, row: Floats, *, more: bool = False) -> None:
        """Add the row of one step.

        Args:
            step: the step's number, larger than the one before.
            time: seconds since the run began.
            row: float32, shape (columns,), in the order of the header's columns; MISSING where not measured.
            more: whether other rows follow at once; they are then written together.
        """
        if os.getpid() != self._pid:
            self._leave_parent()
        if (self._live.is_full or not self._fits) and clock.monotonic() >= self._retry_at:
            self._fits = self._go_on(self._next_layout()) or self._fits
        if self._fits:
            self._live.append(step, time, row, more=more)
        else:
            self._live.lose_row()

    def amend(self, row: Floats) -> None:
        """Replace the values of the row appended last (a scalar logged after its step ended)."""
        if os.getpid() != self._pid:
            self._leave_parent()
        if self._fits:
            self._live.amend(row)

    def change(self, header: Header) -> None:
        """From now on rows have other columns (a layer was added or unfrozen): go on in another part."""
        if os.getpid() != self._pid:
            self._leave_parent()
        self._header = header
        self._name_columns()
        self._fits = self._go_on(self._next_layout())

    def _next_layout(self) -> Layout:
        before = self._live.layout
        columns = len(self._header.columns)
        if columns == before.columns:
            return before
        sizes = Layout.for_run(columns, before.rows, self._budget)
        slots, slot_bytes = before.snapshot_slots, before.snapshot_bytes
        return replace(sizes, snapshot_slots=slots, snapshot_bytes=slot_bytes)

    def keep(self) -> None:
        """The rows around the newest one matter: they stay whole, and the next ones are written at once."""
        self._live.keep()

    def snapshot(self, step: int, time: float, pieces: Mapping[str, Piece], meta: Mapping[str, Any]) -> bool:
        """Copy a state of the training, to be written by another thread; see `SnapshotWriter.put`."""
        return self._snapshots is not None and self._snapshots.put(step, time, pieces, meta)

    def pin_snapshot(self, step: int) -> bool:
        """Keep the snapshot of a step for good; False when this part of the run has none."""
        return self._snapshots is not None and self._snapshots.pin(step)

    def event(self, kind: str, step: int, **fields: Any) -> None:
        """Note something beside the rows; JSON types, written at once, dropped and counted without room."""
        self._note(kind, step, fields)

    def epoch(self, epoch: Epoch) -> None:
        """Record an evaluation; without its confusion matrix above 100 classes, or when room gets scarce."""
        large = len(epoch.confusion) > LARGEST_CONFUSION or self._live.event_room < EVENT_BYTES // 2
        kept = replace(epoch, confusion=()) if large else epoch
        self._note("epoch", epoch.step, kept.to_dict())

    def name_scalar(self, name: str) -> int | None:
        """Column of the scalar of this name, which takes the next spare column when it is new.

        Returns:
            The column's index; None when no spare column is left or the name cannot be stored.
        """
        if name in self._columns:
            return self._columns[name]
        spare = Column(None, "")
        if not name or spare not in self._header.columns:
            return None
        index = self._header.columns.index(spare)
        if not self._note("scalar", self._live.rows, {"name": name, "column": index}):
            return None
        columns = list(self._header.columns)
        columns[index] = Column(None, name)
        self._header = replace(self._header, columns=tuple(columns))
        self._columns[name] = index
        return index

    def close(self, state: str = "finished") -> None:
        """Write what is left and how the run ended: finished, interrupted or failed. Again: does nothing."""
        if os.getpid() == self._pid:
            self._close_part(state)

    def _close_part(self, state: str) -> None:
        if self._snapshots is not None:
            self._snapshots.close()
        self._live.close(state)

    def _note(self, kind: str, step: int, fields: Mapping[str, Any]) -> bool:
        if os.getpid() != self._pid:
            self._leave_parent()
        try:
            line = frame({**fields, "kind": kind, "step": step})
        except (TypeError, ValueError, RecursionError):
            self._live.lose_event()
            return False
        return self._live.note(line)

    def _name_columns(self) -> None:
        self._columns = {c.stat: i for i, c in enumerate(self._header.columns) if c.site is None and c.stat}

    def _go_on(self, layout: Layout) -> bool:
        """Begin the next part; the one before is closed only when that is there."""
        for name in part_names(self.location, self.part + 1, self._run_id):
            try:
                live, snapshots = self._make(name, layout, self.part + 1)
            except RunFileExistsError:
                continue
            except UsageError as error:
                self._tell_stuck(error)
                break
            self.part += 1
            self._close_part("continued")
            self._live, self._snapshots = live, snapshots
            return True
        self._retry_at = clock.monotonic() + RETRY_SECONDS
        return False

    def _tell_stuck(self, error: UsageError) -> None:
        if not self._retry_at:
            warn(f"the run cannot go on in another part yet: {error}. The last steps of this one are kept.")

    def _make(self, path: Path, layout: Layout, part: int = 1) -> tuple[LiveFile, SnapshotWriter | None]:
        image = build_image(self._header, layout, Identity(self._run_id, part))
        first = Head(sequence=1, heartbeat=clock.time(), pid=os.getpid(), started=started(os.getpid()))
        image = replace(
            image, pieces=(*image.pieces, (image.offsets["live/head"] + HEAD_SLOT, pack_head(first)))
        )
        reserved = (
            (image.offsets["live/head"], 2 * HEAD_SLOT),
            (image.offsets["live/events"], EVENT_BYTES_RESERVED),
            (image.offsets["live/ring"], layout.ring * layout.row_bytes),
        )
        descriptor = publish(path, image, reserved)
        slots, slot_bytes = layout.snapshot_slots, layout.snapshot_bytes
        snapshots = SnapshotWriter(descriptor, image.offsets, slots, slot_bytes) if slots else None
        return LiveFile(path, Regions(descriptor, image.offsets), layout, self._mode), snapshots

    def _leave_parent(self) -> None:
        """In a forked child: two processes must not write one ring, so the child gets its own file."""
        self._pid = os.getpid()
        self._live.abandon()
        if self._snapshots is not None:
            self._snapshots.close()
        name = f"{self.path.stem}.fork{self._pid}{self.path.suffix}"
        location, path = self.location.with_name(name), self.path.with_name(name)
        self._run_id, self.part = uuid.uuid4().hex, 1
        try:
            self._live, self._snapshots = self._make(location, self._next_layout())
        except UsageError as error:
            warn(f"nanscope records nothing in this forked process: {error}")
        else:
            warn(f"{self.path} is recorded by the parent process; this forked process records {path}")
            self.path, self.location, self._fits = path, location, True
