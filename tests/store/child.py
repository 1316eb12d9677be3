"""A training that only appends rows, to be killed; run by `nursery.py`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nanscope.store import live
from nanscope.store.layout import Layout
from nanscope.store.writer import RunWriter
from tests.store.files import BLOCK, RING, pattern
from tests.store.hooks import Log, Strike, install
from tests.store.recorded import recorded_header

ROWS = 1 << 17  # a victim appends at most
PERIOD = 256  # rows of the pattern made at a time
FIRST = 1 << 20  # an amended row held the pattern of so many rows later before
EVENTS = 37  # rows from one event to the next
CREATING, CREATED, EVENTS_SENT, APPENDED, AMENDED, CLOSED, HANDLES = range(7)
NUMBERS = 8


@dataclass(frozen=True)
class Plan:
    """What a victim does.

    Attributes:
        path, tally: the run file, and where the victim tells how far it is.
        sites, mode: of the rows; without a mode the writer chooses.
        real: with blocks and ring of full size.
        blocks, slots: room in the file, when it is not real.
        rows: to append, then the run is finished.
        pace: seconds per row.
        sync_seconds: from one sync to the next.
        amends: whether each row is amended.
        strike: where it kills itself, see `Strike`; after `arm` rows, or -1: from the creation on.
        log: where its system calls are logged.
        until: a file that ends the run when it appears.
        deed: what it does, by a name that its program knows.
    """

    path: str
    tally: str
    sites: int
    mode: live.Mode | None
    deed: str = "append"
    real: bool = False
    blocks: int = 1024
    slots: int = 1024
    rows: int = ROWS
    pace: float = 0.0
    sync_seconds: float = 1.0
    amends: bool = False
    strike: tuple[int, str, str] | None = None
    arm: int = 0
    log: str = ""
    until: str = ""

    def layout(self) -> Layout:
        """Sizes of the run file."""
        columns = len(recorded_header(self.sites).columns)
        if self.real:
            return Layout.for_run(columns)
        return Layout(columns, BLOCK, RING, self.blocks, self.slots)


class Tally:
    """How far a victim is, in a mapped file: some numbers, then when each append returned."""

    def __init__(self, path: str) -> None:
        self._numbers = np.memmap(path, "<f8", "r+", shape=(NUMBERS + ROWS,))

    @staticmethod
    def make(path: Path) -> Tally:
        """A new one."""
        with path.open("wb") as file:
            file.truncate(8 * (NUMBERS + ROWS))
        return Tally(str(path))

    def __getitem__(self, which: int) -> float:
        return float(self._numbers[which])

    def __setitem__(self, which: int, value: float) -> None:
        self._numbers[which] = value

    def appended(self, row: int) -> None:
        """The append of this row returned."""
        self._numbers[NUMBERS + row] = time.monotonic()
        self._numbers[APPENDED] = row + 1

    def when(self, row: int) -> float:
        """The moment at which that was."""
        return float(self._numbers[NUMBERS + row])


def losses_of(plan: Plan, mode: Literal["r", "w+"] = "r") -> Any:
    """The loss of each step of a training, as it saw it itself; outlives the victim."""
    return np.memmap(f"{plan.tally}.losses", "<f4", mode, shape=(plan.rows,))


def append(plan: Plan) -> None:
    """Append rows of the pattern, with an event now and then."""
    tally = Tally(plan.tally)
    live.SYNC_SECONDS = plan.sync_seconds
    if plan.log:
        install(Log(Path(plan.log)))
    if plan.arm < 0:
        _arm(plan)
    header = recorded_header(plan.sites)
    tally[CREATING] = time.monotonic()
    writer = RunWriter.create(Path(plan.path), header, layout=plan.layout(), mode=plan.mode)
    tally[CREATED] = time.monotonic()
    start = time.monotonic()
    for row in range(plan.rows):
        if row == plan.arm:
            _arm(plan)
        if plan.until and Path(plan.until).exists():
            break
        put_row(writer, tally, row, len(header.columns), amend=plan.amends)
        if plan.pace:
            time.sleep(max(0.0, start + row * plan.pace - time.monotonic()))
    writer.close()
    tally[CLOSED] = 1


def _arm(plan: Plan) -> None:
    if plan.strike is not None:
        install(Strike(*plan.strike))


def put_row(
    writer: RunWriter, tally: Tally, row: int, columns: int, *, amend: bool = False, events: bool = True
) -> None:
    """Append one row and note that it is done."""
    if amend:
        writer.append(3 * row, row / 8, _row(row + FIRST, columns))
        tally.appended(row)
        writer.amend(_row(row, columns))
        tally[AMENDED] = row + 1
    else:
        writer.append(3 * row, row / 8, _row(row, columns))
        tally.appended(row)
    if events and row % EVENTS == 0:
        writer.event("note", 3 * row, text=f"event {row}")
        tally[EVENTS_SENT] = row // EVENTS + 1


_tables: dict[tuple[int, int], Any] = {}


def _row(row: int, columns: int) -> Any:
    key = (row // PERIOD, columns)
    if key not in _tables:
        if len(_tables) > 4:
            _tables.clear()
        _tables[key] = pattern(row // PERIOD * PERIOD, (row // PERIOD + 1) * PERIOD, columns)
    return _tables[key][row % PERIOD]
