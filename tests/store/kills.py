"""Trials by SIGKILL: the victim dies somewhere, its file is opened.

A trial is `(ground, times) -> outcomes`; see `matrix.py`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.store.child import AMENDED, APPENDED, CREATED, CREATING, EVENTS_SENT, Plan
from tests.store.files import BLOCK
from tests.store.killing import Ground, Victim
from tests.store.outcome import Expected, Outcome, examine

CREATION_SECONDS = 0.012
PACED_SECONDS = 0.6
MOMENTS = ("before", "middle", "after")


def at_random_moments(ground: Ground, times: int) -> Iterator[Outcome]:
    """After some row, at whatever the trainer and the thread are doing then."""
    for _ in range(times):
        pace = ground.dice.choice((0.0, 0.0002, 0.004))  # as fast as it can, or so many seconds per row
        most = int(PACED_SECONDS / pace) if pace else 8000 if ground.real else 4000
        with ground.victim(ground.plan(pace=pace, sync_seconds=0.1)) as victim:
            victim.wait_for(APPENDED, ground.dice.randint(1, most))
            time.sleep(ground.dice.uniform(0, 0.002))
            yield _kill(ground, victim)


def in_a_block(ground: Ground, times: int) -> Iterator[Outcome]:
    """Before, after and in the middle of a call of the thread that finishes blocks: a write, or a sync."""
    for _ in range(times):
        strike = (ground.dice.randint(0, 60), ground.dice.choice(MOMENTS), "thread")
        yield from _struck(ground, ground.plan(strike=strike, arm=1, sync_seconds=0.0))


def in_creation(ground: Ground, times: int) -> Iterator[Outcome]:
    """Within 12 ms of its beginning, and at each of its calls: no file under the name, or one that opens."""
    for i in range(times):
        if i % 2:
            first = ground.dice.choice((0, 75))  # the calls around the link are the last of about a hundred
            strike = (ground.dice.randint(first, 95), ground.dice.choice(MOMENTS), "trainer")
            yield from _struck(ground, ground.plan(strike=strike, arm=-1))
            continue
        with ground.victim(ground.plan()) as victim:
            victim.wait_for(CREATING, 1)
            moment = victim.tally[CREATING] + ground.dice.uniform(0, CREATION_SECONDS)
            while time.monotonic() < moment:
                pass
            yield _kill(ground, victim)


def in_amend(ground: Ground, times: int) -> Iterator[Outcome]:
    """While each row is amended right after it was appended: the newest row is the old or the new one."""
    for _ in range(times):
        strike = (ground.dice.randint(1, 400), ground.dice.choice(MOMENTS), "trainer")
        row_mode = ground.mode == "row"
        if row_mode:
            yield from _struck(ground, ground.plan(strike=strike, arm=1, amends=True), amended=True)
        else:
            with ground.victim(ground.plan(amends=True)) as victim:
                victim.wait_for(AMENDED, ground.dice.randint(1, 2000))
                yield _kill(ground, victim, amended=True)


def in_the_next_part(ground: Ground, times: int) -> Iterator[Outcome]:
    """At a call of the trainer around the row that finds the file full: the next part begins."""
    for _ in range(times):
        blocks = ground.dice.randint(1, 3)
        arm = blocks * BLOCK - 1 if ground.mode == "row" else 1
        strike = (ground.dice.randint(0, 130), ground.dice.choice(MOMENTS), "trainer")
        yield from _struck(ground, ground.plan(strike=strike, arm=arm, blocks=blocks, slots=blocks))


def in_a_thinned_slot(ground: Ground, times: int) -> Iterator[Outcome]:
    """While a block's values are overwritten by those of a newer one."""
    for _ in range(times):
        strike = (ground.dice.randint(80, 200), ground.dice.choice(MOMENTS), "thread")
        yield from _struck(ground, ground.plan(strike=strike, arm=1, blocks=64, slots=6), thinned=True)


def _struck(ground: Ground, plan: Plan, **expected: bool) -> Iterator[Outcome]:
    with ground.victim(plan) as victim:
        code = victim.wait()
        assert code == -9, f"the victim was to kill itself and ended with {code}: {victim.output}"
        yield _look(ground, victim, **expected)


def _kill(ground: Ground, victim: Victim, **expected: bool) -> Outcome:
    victim.kill()
    code = victim.wait()
    assert code == -9, victim.output
    return _look(ground, victim, **expected)


def _look(ground: Ground, victim: Victim, *, amended: bool = False, thinned: bool = False) -> Outcome:
    path = Path(victim.plan.path)
    if not path.exists():
        late = bool(victim.tally[CREATED])
        return Outcome(exists=False, plain=False, opened=not late, complaints=("no file",) * late)
    rows = int(victim.tally[APPENDED])
    expected = Expected(
        due=np.arange(rows),
        last=rows + 1,
        events=int(victim.tally[EVENTS_SENT]),
        thinned=thinned,
        amended=amended,
    )
    outcome = examine(path, expected)
    if not outcome.missing or not outcome.opened:
        return outcome
    seconds = victim.ended - victim.tally.when(outcome.found)
    broken = ground.mode == "row" or seconds > ground.patience
    sentence = f"{outcome.missing} rows lost, the oldest {seconds:.3f} s old"
    return replace(outcome, late=seconds, complaints=(*outcome.complaints, *[sentence] * broken))
