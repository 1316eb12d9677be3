"""`RunWriter`: the run file as the recorder sees it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from nanscope.errors import UsageError
from nanscope.run import Column, Floats, Header
from nanscope.store.image import build_image
from nanscope.store.journal import frame
from nanscope.store.live import LiveFile
from nanscope.store.publish import publish
from nanscope.store.schema import EVENT_BYTES_RESERVED, HEAD_SLOT, Layout
from nanscope.values import Epoch

LARGEST_CONFUSION = 100  # classes; beyond it the matrix would crowd out everything else


class RunWriter:
    """Records one training into a new run file.

    After `create` nothing raises for the file's sake: what cannot be written is counted in the file, and said
    once as a warning. A process forked from the recording one that goes on appending gets a run file of its
    own, `run.fork<pid>.h5`. Rows come from one thread; events may come from any.

    Attributes:
        path: the file that is written.
    """

    def __init__(self, path: Path, header: Header, live: LiveFile) -> None:
        self.path = path
        self._header = header
        self._live = live
        self._pid = os.getpid()
        self._columns = {c.stat: i for i, c in enumerate(header.columns) if c.site is None and c.stat}

    @classmethod
    def create(
        cls, path: Path, header: Header, *, capacity: int | None = None, layout: Layout | None = None
    ) -> RunWriter:
        """Make the run file, complete with room for all rows (sparse), and begin to write it.

        Args:
            path: a name that is free, in a folder that exists.
            header: what is known before the first row.
            capacity: steps to come, when known; else room for 2**20. Beyond it the file keeps the last rows.
            layout: other sizes than the ones that fit `header` and `capacity`.

        Raises:
            RunFileExistsError: the name is taken; nothing was touched.
            UsageError: no column, or the folder is missing, cannot be written, or has no space.
        """
        if not header.columns:
            raise UsageError("a run file needs at least one column", "record a scalar such as loss")
        sizes = layout or Layout.for_run(len(header.columns), capacity)
        return cls(path, header, _open_live(path, header, sizes))

    def append(self, step: int, time: float, row: Floats) -> None:
        """Add the row of one step.

        Args:
            step: the step's number, larger than the one before.
            time: seconds since the run began.
            row: float32, shape (columns,), in the order of the header's columns; MISSING where not measured.
        """
        if os.getpid() != self._pid:
            self._leave_parent()
        self._live.append(step, time, row)

    def amend(self, row: Floats) -> None:
        """Replace the values of the row appended last (a scalar logged after its step ended)."""
        if os.getpid() != self._pid:
            self._leave_parent()
        self._live.amend(row)

    def event(self, kind: str, step: int, **fields: Any) -> None:
        """Note something beside the rows; JSON types, written at once, dropped and counted without room."""
        self._note(kind, step, fields)

    def epoch(self, epoch: Epoch) -> None:
        """Record an evaluation; without its confusion matrix above 100 classes."""
        kept = replace(epoch, confusion=()) if len(epoch.confusion) > LARGEST_CONFUSION else epoch
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

    def _leave_parent(self) -> None:
        """In a forked child: two processes must not write one ring, so the child gets its own file."""
        self._pid = os.getpid()
        self._live.abandon()
        path = self.path.with_name(f"{self.path.stem}.fork{self._pid}{self.path.suffix}")
        try:
            self._live = _open_live(path, self._header, self._live.layout)
        except UsageError as error:
            message = f"nanscope records nothing in this forked process: {error}"
        else:
            message = f"{self.path} is recorded by the parent process; this forked process records {path}"
            self.path = path
        with suppress(Warning):  # a filter that turns warnings into errors must not end the training
            warnings.warn(message, RuntimeWarning, stacklevel=3)


def _open_live(path: Path, header: Header, layout: Layout) -> LiveFile:
    image = build_image(header, layout)
    reserved = (
        (image.offsets["live/head"], 2 * HEAD_SLOT),
        (image.offsets["live/events"], EVENT_BYTES_RESERVED),
        (image.offsets["live/ring"], layout.ring * layout.row_bytes),
    )
    return LiveFile(path, publish(path, image, reserved), layout, image.offsets)
