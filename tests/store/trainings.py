"""Trials with a recorded training: `nanscope.record` around an ordinary loop, and something befalls it.

The rows are held against the losses that the training itself saw.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from nanscope.store.reader import open_run
from tests.store.child import APPENDED, HANDLES, Plan, losses_of
from tests.store.files import BLOCK
from tests.store.killing import Ground
from tests.store.outcome import Outcome, plain_reasons

LEDGER_SECONDS = 0.1  # that a step may wait for others before it becomes a row
STEPS = 60


def killed(ground: Ground, times: int) -> Iterator[Outcome]:
    """SIGKILL at a random moment."""
    for _ in range(times):
        with ground.victim(ground.plan(deed="train", rows=2000)) as victim:
            victim.wait_for(APPENDED, ground.dice.randint(1, 100))
            time.sleep(ground.dice.uniform(0, 0.01))
            victim.kill()
            victim.wait()
            outcome = _examine(victim.plan, int(victim.tally[APPENDED]), ("killed",))
            late = victim.ended - victim.tally.when(outcome.found) if outcome.missing else 0.0
            broken = late > ground.patience + LEDGER_SECONDS
            sentence = f"{outcome.missing} rows lost, the oldest {late:.3f} s old"
            yield replace(outcome, late=late, complaints=(*outcome.complaints, *[sentence] * broken))


def ends(ground: Ground, times: int) -> Iterator[Outcome]:
    """Exception, sys.exit, os._exit, Ctrl-C twice, data loader workers that fork: each as often."""
    deeds = {
        "train": (0, STEPS, ("finished",)),
        "workers": (0, STEPS, ("finished",)),
        "raises": (1, STEPS // 2, ("failed",)),
        "exits": (3, STEPS // 2, ("failed", "interrupted")),
        "interrupted-twice": (-2, 0, ("interrupted", "killed")),
        "vanishes": (3, 0, ("killed",)),
    }
    for i in range(times):
        deed, (code, due, states) = list(deeds.items())[i % len(deeds)]
        with ground.victim(ground.plan(deed=deed, rows=STEPS, arm=STEPS // 2)) as victim:
            found = victim.wait()
            wrong = [f"{deed}: exit code {found}: {victim.output[-400:]}"] * (found != code)
            wrong += [f"{deed}: an HDF5 handle is open"] * (victim.tally[HANDLES] > 0)
            files = [path.name for path in victim.folder.glob("*.h5")]
            wrong += [f"{deed}: {files}"] * (files != ["run.h5"])
            outcome = _examine(victim.plan, due, states)
            wrong += [f"{deed}: {complaint}" for complaint in outcome.complaints]
            wrong += [f"{deed}: {outcome.missing} rows lost"] * (outcome.missing > 0)
            yield replace(outcome, complaints=tuple(wrong))


def full_disk(ground: Ground, times: int) -> Iterator[Outcome]:
    """No byte left from step 5 on: the blocks find no room; all rows are still in the ring."""
    for _ in range(times):
        yield from _suffered(ground, ground.plan(deed="full-disk", rows=3 * BLOCK, arm=5), due=3 * BLOCK)


def size_limit(ground: Ground, times: int) -> Iterator[Outcome]:
    """`RLIMIT_FSIZE` from some step on: the rows before it are there; from the beginning: no file."""
    for i in range(times):
        arm = STEPS // 2 * (i % 2)
        yield from _suffered(ground, ground.plan(deed="size-limit", rows=STEPS, arm=arm), due=min(arm, 1))


def no_room(ground: Ground, times: int) -> Iterator[Outcome]:
    """A disk that is too small: no file, one warning, and the training goes on."""
    for _ in range(times):
        yield from _suffered(ground, ground.plan(deed="no-room", rows=STEPS), due=0)


def read_only(ground: Ground, times: int) -> Iterator[Outcome]:
    """A file system that takes no file: no file, one warning, and the training goes on."""
    for _ in range(times):
        yield from _suffered(ground, ground.plan(deed="read-only", rows=STEPS), due=0)


def read_back(ground: Ground, times: int) -> Iterator[Outcome]:
    """A reader of a read-only file on a read-only file system finds what it found before."""
    for _ in range(times):
        yield from _suffered(ground, ground.plan(deed="read-back", rows=STEPS), due=STEPS, warnings=0)


def _suffered(ground: Ground, plan: Plan, due: int, warnings: int = 1) -> Iterator[Outcome]:
    """The program ends with exit code 0, warns so often, and has the rows due; 0: there is no file."""
    with ground.victim(plan) as victim:
        code = victim.wait()
        told = victim.output.count("RuntimeWarning:")
        wrong = [f"exit code {code}: {victim.output[-400:]}"] * (code != 0)
        wrong += [f"{told} warnings: {victim.output[-800:]}"] * (told != warnings)
        wrong += ["the training did not come to its end"] * (victim.tally[APPENDED] != plan.rows)
        if due:
            outcome = _examine(plan, due, ("finished",))
            wrong += [f"{outcome.missing} rows lost"] * (outcome.missing > 0)
        else:
            wrong += ["there is a file"] * Path(plan.path).exists()
            outcome = Outcome(exists=False, plain=False)
        yield replace(outcome, complaints=(*outcome.complaints, *wrong))


def _examine(plan: Plan, due: int, states: tuple[str, ...]) -> Outcome:
    """Hold the run against the losses; the first `due` steps have to be there."""
    path, losses = Path(plan.path), losses_of(plan)
    complaints = plain_reasons(path)
    plain = not complaints
    start = time.perf_counter()
    run = open_run(path)
    seconds = time.perf_counter() - start
    steps = run.steps
    wrong = steps != np.arange(len(run))
    wrong |= run.scalar("loss").view("<u4") != losses[steps].view("<u4")
    complaints += [f"the state is {run.state}"] * (run.state not in states)
    missing = max(0, due - len(run))
    return Outcome(
        plain=plain,
        due=due,
        found=len(run),
        missing=missing,
        wrong=int(np.count_nonzero(wrong)),
        open_seconds=seconds,
        complaints=(*complaints, *["wrong rows"] * bool(wrong.any())),
    )
