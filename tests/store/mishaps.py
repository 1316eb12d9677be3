"""Trials of what befalls a writer besides kills and power cuts: disks, processes, threads, clocks."""

from __future__ import annotations

import hashlib
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np

from nanscope.errors import RunFileExistsError
from nanscope.store.reader import open_run
from nanscope.store.writer import RunWriter
from tests.store.child import APPENDED, CLOSED, CREATED, EVENTS_SENT, Tally
from tests.store.files import BLOCK, RING
from tests.store.killing import Ground, Victim
from tests.store.misfortunes import GRANDCHILD_ROWS
from tests.store.outcome import Expected, Outcome, examine
from tests.store.recorded import recorded_header

FINISHED = ("finished",)


def size_limit(ground: Ground, times: int) -> Iterator[Outcome]:
    """`RLIMIT_FSIZE`: the program ends well; where the limit leaves the ring, that has the newest rows."""
    for _ in range(times):
        rows = ground.dice.randint(3 * RING, 5 * RING)
        for room in (3, 0, -1):
            expected = _newest(rows)
            if room < 0:
                expected = replace(expected, due=np.arange(0))
            with ground.victim(ground.plan(deed="limit", rows=rows, arm=room)) as victim:
                yield _ended(victim, expected, warnings=1)


def hanging_disk(ground: Ground, times: int) -> Iterator[Outcome]:
    """The training goes on while the disk hangs; the rows that the ring held are there in the end."""
    for _ in range(times):
        with ground.victim(ground.plan(deed="hang", rows=3 * RING)) as victim:
            victim.wait_for(CREATED, 2)
            Path(victim.plan.path).with_name("release").touch()
            expected = Expected(np.arange(RING), 3 * RING, states=FINISHED, gaps=True, lossless=False)
            yield _ended(victim, expected, warnings=1)


def forks(ground: Ground, times: int) -> Iterator[Outcome]:
    """A child that only closes, one that records and is killed, a grandchild: a file for each."""
    for _ in range(times):
        with ground.victim(ground.plan(deed="family", rows=2 * RING)) as victim:
            whole = Expected(np.arange(2 * RING), 2 * RING, 1, states=FINISHED)
            yield _ended(victim, whole)
            child, grandchild = sorted(victim.folder.glob("run.fork*.h5"), key=lambda path: len(path.name))
            sent = int(Tally(f"{victim.plan.tally}.child")[EVENTS_SENT])
            due = np.arange(RING + 5 if ground.mode == "row" else 0)
            yield examine(child, Expected(due, RING + 5, sent))
            due = np.arange(GRANDCHILD_ROWS)
            yield examine(grandchild, Expected(due, GRANDCHILD_ROWS, 1, states=("interrupted",)))


def second_recorder(ground: Ground, times: int) -> Iterator[Outcome]:
    """On the name of a run that is being recorded: refused, and not a byte of it changes."""
    for _ in range(times):
        with ground.victim(ground.plan(blocks=64, slots=64)) as victim:
            victim.wait_for(APPENDED, ground.dice.randint(1, 1000))
            victim.kill(signal.SIGSTOP)
            victim.wait_until_stopped()
            path = Path(victim.plan.path)
            before, complaints = _digest(path), []
            try:
                RunWriter.create(path, recorded_header(ground.sites))
            except RunFileExistsError:
                pass
            else:
                complaints.append("a second recorder took the name")
            if _digest(path) != before or len(list(victim.folder.glob("*.h5"))) != 1:
                complaints.append("the second recorder changed something")
            victim.kill(signal.SIGCONT)
            victim.kill()
            victim.wait()
            outcome = _killed(victim)
            yield replace(outcome, complaints=(*outcome.complaints, *complaints))


def stopped(ground: Ground, times: int) -> Iterator[Outcome]:
    """SIGSTOP for what looks like a minute, SIGCONT: live all the while, killed once it is."""
    for _ in range(times):
        with ground.victim(ground.plan(pace=0.001)) as victim:
            victim.wait_for(APPENDED, 20)
            states = [open_run(victim.plan.path).state]
            victim.kill(signal.SIGSTOP)
            victim.wait_until_stopped()
            states.append(open_run(victim.plan.path).state)
            with patch("time.time", return_value=time.time() + 60):
                states.append(open_run(victim.plan.path).state)
            victim.kill(signal.SIGCONT)
            victim.wait_for(APPENDED, 40)
            states.append(open_run(victim.plan.path).state)
            victim.kill()
            victim.wait()
            outcome = _killed(victim)
            wrong = [f"states {states} while it is recorded"] * (set(states) != {"live"})
            yield replace(outcome, complaints=(*outcome.complaints, *wrong))


def clock_goes_back(ground: Ground, times: int) -> Iterator[Outcome]:
    """By an hour: the run is live while its process is there and killed when it is gone."""
    for _ in range(times):
        with ground.victim(ground.plan(deed="clock", rows=RING, arm=RING // 2, sync_seconds=0.01)) as victim:
            victim.wait_for(CREATED, 2)
            state = open_run(victim.plan.path).state
            victim.kill()
            victim.wait()
            outcome = _killed(victim)
            wrong = [f"the state is {state} while it is recorded"] * (state != "live")
            yield replace(outcome, complaints=(*outcome.complaints, *wrong))


def no_thread(ground: Ground, times: int) -> Iterator[Outcome]:
    """The system refuses another thread: rows are recorded all the same."""
    for _ in range(times):
        with ground.victim(ground.plan(deed="no-thread", rows=3 * RING)) as victim:
            yield _ended(victim, Expected(np.arange(3 * RING), 3 * RING, 1, states=FINISHED))


def dead_thread(ground: Ground, times: int) -> Iterator[Outcome]:
    """The writer's thread ends: every row is recorded all the same."""
    for _ in range(times):
        with ground.victim(ground.plan(deed="dead-thread", rows=3 * RING)) as victim:
            yield _ended(victim, Expected(np.arange(3 * RING), 3 * RING, 1, states=FINISHED))


def failing_thread(ground: Ground, times: int) -> Iterator[Outcome]:
    """The writer's thread fails again and again: the program ends well, the ring holds the newest rows."""
    for _ in range(times):
        with ground.victim(ground.plan(deed="failing-thread", rows=3 * RING)) as victim:
            yield _ended(victim, _newest(3 * RING), warnings=1)


def _newest(rows: int) -> Expected:
    """As many rows as the ring holds; others may be missing, and the file says so."""
    due = np.arange(rows - RING + BLOCK, rows)
    return Expected(due, rows, states=FINISHED, gaps=True, lossless=False)


def _ended(victim: Victim, expected: Expected, warnings: int | None = None) -> Outcome:
    code = victim.wait()
    complaints = [f"exit code {code}: {victim.output[-300:]}"] * (code != 0)
    complaints += ["close did not return"] * (not victim.tally[CLOSED])
    told = victim.output.count("RuntimeWarning:")
    complaints += [f"{told} warnings: {victim.output[-500:]}"] * (warnings is not None and told != warnings)
    if not Path(victim.plan.path).exists():
        return Outcome(exists=False, plain=False, complaints=tuple(complaints))
    outcome = examine(Path(victim.plan.path), expected)
    lost = [f"{outcome.missing} rows lost"] * (outcome.missing > 0)
    return replace(outcome, complaints=(*complaints, *outcome.complaints, *lost))


def _killed(victim: Victim) -> Outcome:
    rows = int(victim.tally[APPENDED])
    due = np.arange(rows if victim.plan.mode == "row" else 0)
    outcome = examine(Path(victim.plan.path), Expected(due, rows + 1, int(victim.tally[EVENTS_SENT])))
    lost = [f"{outcome.missing} rows lost"] * (outcome.missing > 0)
    return replace(outcome, complaints=(*outcome.complaints, *lost))


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
