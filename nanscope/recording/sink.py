"""Where rows go: a run file that is made when the first step ended, or nowhere, with one warning."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from nanscope.errors import RunFileExistsError, UsageError
from nanscope.run import Floats, Header
from nanscope.store.compaction.compact import compact_at_close
from nanscope.store.layout import DEFAULT_BUDGET
from nanscope.store.snapshots.slots import Piece
from nanscope.store.snapshots.writer import SnapshotRoom
from nanscope.store.writer import RunWriter
from nanscope.values import Epoch


def numbered(path: Path) -> Path:
    """The path, or the first of `run-2.h5`, `run-3.h5` ... that is free."""
    free, number = path, 1
    while os.path.lexists(free):
        number += 1
        free = path.with_stem(f"{path.stem}-{number}")
    return free


def check_folder(path: Path) -> None:
    """Make the folder of a run file and see that it takes files.

    Raises:
        UsageError: it cannot be made or written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        hint = "choose a folder that can be written"
        raise UsageError(f"cannot write a run file in {path.parent} ({reason})", hint) from error


class Sink:
    """Takes rows, events and epochs and never fails: without a run file they are dropped.

    What comes before the file is open is kept and written when it is.
    """

    def __init__(self, path: Path, capacity: int | None, budget: int = DEFAULT_BUDGET) -> None:
        self._wanted = path
        self._folder = path.parent.absolute()  # the program may change its directory before the first step
        self._capacity = capacity
        self._budget = budget
        self._writer: RunWriter | None = None
        self._early: list[tuple[str, int, dict[str, Any]]] = []
        self._spare: dict[str, int | None] = {}
        try:
            check_folder(path)
            self._usable = True
        except UsageError as error:
            self._give_up(error)

    @property
    def path(self) -> Path | None:
        """Where the run file is, or will be; None when it cannot be written."""
        if not self._usable:
            return None
        return self._wanted.with_name((self._writer.path if self._writer else self._free()).name)

    def _free(self) -> Path:
        return numbered(self._folder / self._wanted.name)

    @property
    def is_open(self) -> bool:
        """Whether rows can be taken; `open` need not be called again."""
        return self._writer is not None or not self._usable

    def open(self, header: Header, room: SnapshotRoom | None = None) -> None:
        """Make the run file; a taken name gets a number, nothing is overwritten.

        Args:
            room: for states of the training.
        """
        while self._writer is None and self._usable:
            try:
                self._writer = RunWriter.create(
                    self._free(), header, capacity=self._capacity, budget=self._budget, snapshots=room
                )
            except RunFileExistsError:
                continue  # somebody took the name between the look and the making
            except UsageError as error:
                self._give_up(error)
        if self._writer is not None and self._writer.path.name != self._wanted.name:
            self._tell(f"{self._wanted} exists: recording into {self.path}")
        for kind, step, fields in self._early:
            self.event(kind, step, **fields)
        self._early = []

    def change(self, header: Header) -> None:
        """From now on rows have other columns."""
        if self._writer is not None:
            self._writer.change(header)
            self._spare = {}

    def keep(self) -> None:
        """The rows around the newest one matter."""
        if self._writer is not None:
            self._writer.keep()

    def append(self, step: int, time: float, row: Floats, *, more: bool = False) -> None:
        """Write the row of a finished step; with `more` to follow at once, together with them."""
        if self._writer is not None:
            self._writer.append(step, time, row, more=more)

    def amend(self, row: Floats) -> None:
        """Write the row of the last finished step again."""
        if self._writer is not None:
            self._writer.amend(row)

    def event(self, kind: str, step: int, **fields: Any) -> None:
        """Write an event."""
        if self._writer is not None:
            self._writer.event(kind, step, **fields)
        elif self._usable:
            self._early.append((kind, step, fields))

    def snapshot(self, step: int, time: float, pieces: Mapping[str, Piece], meta: Mapping[str, Any]) -> None:
        """Write a state of the training, for good; see `nanscope.recording.state.capture`."""
        if self._writer is not None and self._writer.snapshot(step, time, pieces, meta):
            self._writer.pin_snapshot(step)

    def epoch(self, epoch: Epoch) -> None:
        """Write an evaluation; one before the first step has nothing to belong to and is dropped."""
        if self._writer is not None:
            self._writer.epoch(epoch)

    def column(self, name: str) -> int | None:
        """Position in the row of a scalar of the user's own, None when all spare columns are taken."""
        if self._writer is None:
            return None
        if name not in self._spare:
            self._spare[name] = self._writer.name_scalar(name)
            if self._spare[name] is None:
                self._tell(f"no column is left for the scalar {name!r}: it is not recorded")
        return self._spare[name]

    def close(self, state: str) -> None:
        """Finish the run file; compact it if that takes but a moment."""
        if self._writer is not None:
            self._writer.close(state)
            compact_at_close(self._writer.location)

    def _give_up(self, error: UsageError) -> None:
        self._usable = False
        self._tell(f"{error}. Training goes on, nothing is recorded.")

    def _tell(self, text: str) -> None:
        with suppress(Warning):  # a filter that makes warnings errors must not end the training
            warnings.warn(f"nanscope: {text}", RuntimeWarning, stacklevel=2)
