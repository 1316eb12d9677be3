"""Trials with readers: while the run is recorded, and on copies of what is left."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from nanscope.run import Run
from nanscope.store.reader import open_run
from tests.store.child import APPENDED, EVENTS_SENT, ROWS
from tests.store.files import RING, bits
from tests.store.killing import Ground, Victim
from tests.store.outcome import Expected, Outcome, compare, examine

POLLS = 200
OPENINGS = 10


def held_open(ground: Ground, times: int) -> Iterator[Outcome]:
    """Both readers hold the file for the whole run, and plain h5py opens it 200 times meanwhile."""
    for _ in range(times):
        with _running(ground) as victim:
            path = Path(victim.plan.path)
            with h5py.File(path, "r") as held:
                first = open_run(path)
                seen = [_newest_row(path) for _ in range(POLLS)]
                complaints = ["the row count fell"] * (seen != sorted(seen))
                complaints += _held_is_right(first, victim)
                outcome = _finished(victim)
                complaints += ["the held file lost its rows"] * (held["live/ring"].shape[0] != RING)
            yield replace(outcome, complaints=(*outcome.complaints, *complaints))


@contextmanager
def _running(ground: Ground) -> Iterator[Victim]:
    """A victim that records until `_finished`."""
    until = str(ground.folder / "enough")
    with ground.victim(ground.plan(pace=0.0002, sync_seconds=0.02, until=until)) as victim:
        victim.wait_for(APPENDED, 1)
        yield victim


def _finished(victim: Victim) -> Outcome:
    """Let it end; it minded nothing, and every row is there."""
    Path(victim.plan.until).touch()
    minded = ["the victim minded"] * (victim.wait() != 0)
    rows, sent = int(victim.tally[APPENDED]), int(victim.tally[EVENTS_SENT])
    outcome = examine(Path(victim.plan.path), Expected(np.arange(rows), rows, sent, states=("finished",)))
    lost = [f"{outcome.missing} rows lost"] * (outcome.missing > 0)
    return replace(outcome, complaints=(*outcome.complaints, *minded, *lost))


def _newest_row(path: Path) -> int:
    """The largest row number in the ring, as anybody would read it."""
    with h5py.File(path, "r") as file:
        return int(np.ascontiguousarray(file["live/ring"][:, :2]).view("<u8").max())


def _held_is_right(run: Run, victim: Victim) -> list[str]:
    """An open run stays the table that it was, while the writer goes round the ring."""
    victim.wait_for(APPENDED, len(run) + 2 * RING)
    return list(compare(run, Expected(np.arange(len(run)), ROWS, states=("live",))).complaints)


def polled(ground: Ground, times: int) -> Iterator[Outcome]:
    """The reader opens the run again and again while it is recorded: exact each time, never fewer rows."""
    for _ in range(times):
        with _running(ground) as victim:
            known = 0
            for _ in range(OPENINGS):
                due = int(victim.tally[APPENDED]) if ground.mode == "row" else 0
                expected = Expected(np.arange(due), ROWS, states=("live",))
                outcome = examine(Path(victim.plan.path), expected)
                fewer = ["fewer rows than before"] * (outcome.found < known)
                lost = [f"{outcome.missing} rows lost"] * (outcome.missing > 0)
                known = outcome.found
                yield replace(outcome, complaints=(*outcome.complaints, *fewer, *lost))
            yield _finished(victim)


def moved(ground: Ground, times: int) -> Iterator[Outcome]:
    """The file gets another name while it is written: the rows follow it."""
    for _ in range(times):
        with ground.victim(ground.plan(rows=4 * RING)) as victim:
            victim.wait_for(APPENDED, ground.dice.randint(1, 2 * RING))
            path = Path(victim.plan.path).rename(victim.folder / "moved.h5")
            rows = victim.plan.rows
            late = ["the victim minded"] * (victim.wait() != 0)
            expected = Expected(np.arange(rows), rows, int(victim.tally[EVENTS_SENT]), states=("finished",))
            outcome = examine(path, expected)
            yield replace(outcome, complaints=(*outcome.complaints, *late))


def copied(ground: Ground, times: int) -> Iterator[Outcome]:
    """With and without holes, dead and while it is written: the same arrays, or a shorter exact run."""
    for _ in range(times):
        with ground.victim(ground.plan(blocks=64, slots=64)) as victim:
            victim.wait_for(APPENDED, ground.dice.randint(1, 2 * RING))
            path, copies = Path(victim.plan.path), victim.folder / "copies"
            copies.mkdir()
            _copy(path, copies / "early.h5", "auto")
            victim.kill()
            victim.wait()
            rows = int(victim.tally[APPENDED])
            early = Expected(np.arange(0), rows + 1, states=("killed",), gaps=True, lossless=False)
            yield examine(copies / "early.h5", early)
            original = open_run(path)
            for sparse in ("always", "never"):
                copy = _copy(path, copies / f"{sparse}.h5", sparse)
                outcome = examine(copy, Expected(np.arange(0), rows + 1))
                other = ["the copy differs"] * (not _same(original, open_run(copy)))
                yield replace(outcome, complaints=(*outcome.complaints, *other))


def _copy(path: Path, copy: Path, sparse: str) -> Path:
    subprocess.run(["cp", f"--sparse={sparse}", path, copy], check=True)
    return copy


def _same(one: Run, other: Run) -> bool:
    """Whether two runs hold the same in every bit."""
    table, another = (bits(run.source.block(0, len(run))) for run in (one, other))
    return (
        np.array_equal(table, another)
        and np.array_equal(one.steps, other.steps)
        and (one.events, one.state, one.lost) == (other.events, other.state, other.lost)
    )
