"""Where rows go: a run file that is made when the first step ended, or nowhere, with one warning.

Where only some runs are to leave a file, rows and events wait in memory until it is known that this is one.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nanscope.errors import RunFileExistsError, UsageError
from nanscope.run import Floats, Header
from nanscope.store.layout import DEFAULT_BUDGET
from nanscope.values import Epoch
from nanscope.warn import warn

if TYPE_CHECKING:  # to load the store takes as long as a short test, and most tests leave no file
    from nanscope.store.snapshots.slots import Piece
    from nanscope.store.snapshots.writer import SnapshotRoom
    from nanscope.store.writer import RunWriter

KeepRun = Literal["always", "trained", "trouble"]
"""Which runs leave a file: every one, those with a step, those in which something turned non-finite."""

TROUBLES = ("origin", "not-reproduced", "no-rewind")  # events that are told of nothing else
MOST_WAITING = 32 << 20  # bytes of rows that wait in memory


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

    def __init__(
        self, path: Path, capacity: int | None, budget: int = DEFAULT_BUDGET, keep: KeepRun = "always"
    ) -> None:
        self._wanted, self._pid = path, os.getpid()
        self._folder = path.parent.absolute()  # the program may change its directory before the first step
        self._capacity = capacity
        self._budget = budget
        self._keep, self._waits = keep, keep != "always"
        self._writer: RunWriter | None = None
        self._make: Callable[[], None] | None = None
        self._log: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self._waiting_bytes = 0
        self._spare: dict[str, int | None] = {}
        self._usable = True
        if not self._waits:
            self._check()

    def _check(self) -> None:
        try:
            check_folder(self._folder / self._wanted.name)
        except UsageError as error:
            self._give_up(error)

    @property
    def waits(self) -> bool:
        """Whether rows are kept in memory until it is known whether they are wanted."""
        return self._waits

    @property
    def waits_for_trouble(self) -> bool:
        """Whether they are wanted only if there is some."""
        return self._waits and self._keep == "trouble"

    @property
    def path(self) -> Path | None:
        """Where the run file is, or will be; None when it cannot be written, or never was."""
        if not self._usable:
            return None
        return self._wanted.with_name((self._writer.path if self._writer else self._free()).name)

    def _free(self) -> Path:
        return numbered(self._folder / self._wanted.name)

    @property
    def is_open(self) -> bool:
        """Whether rows can be taken; `open` need not be called again."""
        return self._make is not None or not self._usable

    def open(self, header: Callable[[], Header], room: Callable[[], SnapshotRoom | None]) -> None:
        """Make the run file, now or when it is known to be wanted; a taken name gets a number.

        Args:
            room: for states of the training.
        """
        self._make = lambda: self._create(header(), room())
        if not self._waits:
            self._write_through()

    def need(self) -> None:
        """This run leaves a file, whatever becomes of it."""
        self._waits = False
        self._write_through()

    def _write_through(self) -> None:
        """Make the file, and write down what has waited for it."""
        if self._make is None or self._writer is not None or not self._usable:
            return
        if self._keep != "always":
            self._check()
        self._make()
        log, self._log = self._log, []
        for call, args, kwargs in log:
            self._put(call, *args, **kwargs)

    def _create(self, header: Header, room: SnapshotRoom | None) -> None:
        from nanscope.store.compaction import compact  # noqa: F401, PLC0415 - at the end it may be too late to load
        from nanscope.store.writer import RunWriter  # noqa: PLC0415 - loads h5py; only those who leave a file

        if os.getpid() != self._pid:  # forked before there was a file: the name is the parent's
            self._wanted = self._wanted.with_stem(f"{self._wanted.stem}.fork{os.getpid()}")
        while self._writer is None and self._usable:
            try:
                self._writer = RunWriter.create(
                    self._free(), header, capacity=self._capacity, budget=self._budget, snapshots=room
                )
            except RunFileExistsError:
                continue  # somebody took the name between the look and the making
            except UsageError as error:
                self._give_up(error)
        is_told = self._keep == "always"  # nobody has named the files of runs that may leave none
        if is_told and self._writer is not None and self._writer.path.name != self._wanted.name:
            self._tell(f"{self._wanted} exists: recording into {self.path}")

    def _put(self, call: str, /, *args: Any, **kwargs: Any) -> None:
        if self._writer is not None:
            getattr(self._writer, call)(*args, **kwargs)
        elif self._usable:
            self._log.append((call, args, kwargs))

    def change(self, header: Header) -> None:
        """From now on rows have other columns."""
        self._put("change", header)
        self._spare = {}

    def keep(self) -> None:
        """The rows around the newest one matter."""
        self._put("keep")

    def append(self, step: int, time: float, row: Floats, *, more: bool = False) -> None:
        """Write the row of a finished step; with `more` to follow at once, together with them."""
        if self._writer is None:
            self._waiting_bytes += row.nbytes
            row = row.copy()  # it may be a part of what is used again
        self._put("append", step, time, row, more=more)
        if self._waits and (self._keep == "trained" or self._waiting_bytes > MOST_WAITING):
            self.need()

    def amend(self, row: Floats) -> None:
        """Write the row of the last finished step again."""
        self._put("amend", row if self._writer is not None else row.copy())

    def event(self, kind: str, step: int, **fields: Any) -> None:
        """Write an event."""
        self._put("event", kind, step, **fields)
        if self._waits and kind in TROUBLES:
            self.need()

    def snapshot(self, step: int, time: float, pieces: Mapping[str, Piece], meta: Mapping[str, Any]) -> None:
        """Write a state of the training, for good; see `nanscope.recording.state.capture`."""
        self.need()
        if self._writer is not None and self._writer.snapshot(step, time, pieces, meta):
            self._writer.pin_snapshot(step)

    def epoch(self, epoch: Epoch) -> None:
        """Write an evaluation; one before the first step has nothing to belong to and is dropped."""
        if self._make is not None:
            self._put("epoch", epoch)

    def column(self, name: str) -> int | None:
        """Position in the row of a scalar of the user's own, None when all spare columns are taken."""
        if self._waits:
            self.need()
        if self._writer is None:
            return None
        if name not in self._spare:
            self._spare[name] = self._writer.name_scalar(name)
            if self._spare[name] is None:
                self._tell(f"no column is left for the scalar {name!r}: it is not recorded")
        return self._spare[name]

    def close(self, state: str) -> None:
        """Finish the run file; compact it if that takes but a moment."""
        if self._waits:
            self._usable, self._log = False, []
        if self._writer is not None:
            from nanscope.store.compaction.compact import compact_at_close  # noqa: PLC0415 - loaded by now

            self._writer.close(state)
            compact_at_close(self._writer.location)

    def _give_up(self, error: UsageError) -> None:
        self._usable = False
        self._tell(f"{error}. Training goes on, nothing is recorded.")

    def _tell(self, text: str) -> None:
        warn(f"nanscope: {text}")
