"""Paired timing: blocks of every column on the same model, in random order, round after round.

Two equal models differ by several per cent only by where malloc put them, so the columns are switched on and
off on one model, and several fresh models are measured. A switch leaves caches and allocator in disorder:
the first steps after it are not timed. A block's time is its mean and ends when all its rows, and no others,
are written: steps wait for one another, and else a short block could begin and end between two writes.
"""

from __future__ import annotations

import gc
import random
import resource
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

import nanscope
from nanscope.recording.alert import WINDOW
from tests.benchmarks.overhead_floor import FLOOR, Floor
from tests.benchmarks.overhead_models import Subject
from tests.benchmarks.overhead_rivals import (
    OFTEN,
    RECORDED,
    RIVALS,
    Bare,
    Paced,
    Recorded,
    installed,
    never,
    often,
)

BARE, LOOKED = "bare", "looked at in every fourth step"
SELDOM = 4  # rounds; rivals that take several times as long take part in one of so many


class Column(Protocol):
    """One way to run a step."""

    def on(self) -> None:
        """Before a block."""

    def step(self) -> None:
        """One step."""

    def flush(self) -> None:
        """Write down what waits to be written."""

    def off(self) -> None:
        """After a block."""


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        models: fresh ones, one after the other.
        rounds: share of the subject's own number of rounds, at least one per model.
        settle: untimed steps after a switch.
        longest: steps in a block at most.
        warm: steps of a fresh recorder at most, before any is timed.
    """

    models: int = 4
    rounds: float = 1.0
    settle: int = 4
    longest: int = 1000
    warm: int = 1000
    small: bool = False
    device: str = "cpu"


@dataclass
class Times:
    """What was measured of one subject.

    Attributes:
        seconds: of a step, by column; NaN in the rounds it sat out.
        faults: minor page faults of a step, by column.
        failed: columns that cannot watch this model, with the reason.
        sites: of the run file.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    faults: dict[str, list[float]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    sites: int = 0

    def ratios(self, column: str) -> NDArray[np.float64]:
        """Time of a block over that of the bare block of the same round, where there is one."""
        found: NDArray[np.float64] = np.array(self.seconds[column]) / np.array(self.seconds[BARE])
        return np.asarray(found[~np.isnan(found)])

    def recorded(self) -> float:
        """Median ratio of recorded steps, with the share that looks have in them.

        A block is too short to hold a look, or a fair number of them; so they are measured apart, together
        with what they cost the steps after them.
        """
        return float(np.median(self.ratios(RECORDED))) + self.look() / WINDOW

    def look(self) -> float:
        """What a close look costs, in bare steps."""
        return float(np.median(self.ratios(LOOKED)) - np.median(self.ratios(RECORDED))) * OFTEN

    def per_site(self) -> float:
        """Microseconds that recording adds to a step, looks included, per site."""
        return (self.recorded() - 1) * float(np.median(self.seconds[BARE])) * 1e6 / self.sites

    def add(self, column: str, seconds: float, faults: float) -> None:
        """Take in one block."""
        self.seconds.setdefault(column, []).append(seconds)
        self.faults.setdefault(column, []).append(faults)


def measure(subject: Subject, plan: Plan) -> Times:
    """All columns on one subject."""
    times, chance = Times(), random.Random(0)
    for number in range(plan.models):
        gc.collect()
        torch.manual_seed(number)
        with tempfile.TemporaryDirectory() as folder:
            _one_model(subject, plan, times, chance, Path(folder))
    return times


def _one_model(subject: Subject, plan: Plan, times: Times, chance: random.Random, folder: Path) -> None:
    training = subject.build(plan.small, plan.device)
    recorded = Recorded(training, folder)
    others = {
        name: rival(training, folder)
        for name, rival in RIVALS.items()
        if installed(rival) and name not in times.failed
    }
    columns: dict[str, Column] = {
        BARE: Bare(training, folder),
        RECORDED: Paced(recorded, never),
        LOOKED: Paced(recorded, often),
        FLOOR: Floor(training, folder),
    }
    columns |= others
    block(recorded, min(subject.warm, plan.warm))
    rounds = max(1, round(plan.rounds * subject.rounds / plan.models))
    for number in range(rounds):
        _one_round(subject, plan, times, columns, chance, seldom=number % SELDOM == 0)
    assert recorded.recorder._active, "the recorder stepped aside: what was timed is not recording"
    for rival in (recorded, *others.values()):
        rival.close()
    times.sites = len(nanscope.open_run(recorded.path).sites)


def _one_round(
    subject: Subject,
    plan: Plan,
    times: Times,
    columns: Mapping[str, Column],
    chance: random.Random,
    *,
    seldom: bool,
) -> None:
    for name in chance.sample(list(columns), len(columns)):
        if name in times.failed:
            continue
        if name in RIVALS and not seldom:
            times.add(name, np.nan, np.nan)
            continue
        try:
            times.add(name, *block(columns[name], min(subject.block, plan.longest), settle=plan.settle))
        except Exception as error:
            if name not in RIVALS:
                raise
            times.failed[name] = str(error).partition("\n")[0]


def block(column: Column, steps: int, settle: int = 0) -> tuple[float, float]:
    """Mean seconds and minor page faults of a step."""
    column.on()
    try:
        for _ in range(settle):
            column.step()
        column.flush()
        faults, begin = _faults(), perf_counter()
        for _ in range(steps):
            column.step()
        column.flush()
        return (perf_counter() - begin) / steps, (_faults() - faults) / steps
    finally:
        column.off()


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
