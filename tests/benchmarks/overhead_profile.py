"""Where the time of a recorded step goes, by `cProfile`.

The profiler makes every Python call dearer, so the shares count, not the sum. To a function of nanscope
belongs its own time and that of the C functions it calls (torch's operations among them), but not what it
passes control to: the forward pass, the backward pass, the update.
"""

from __future__ import annotations

import cProfile
import pstats
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

import nanscope
from tests.benchmarks.overhead_models import Subject
from tests.benchmarks.overhead_rivals import Recorded

HOME = str(Path(nanscope.__file__).parent)
LINES = 20
Function = tuple[str, int, str]


def profile(subject: Subject, steps: int, *, small: bool) -> Table:
    """The dearest functions of nanscope in a recorded step."""
    stats: Any = pstats.Stats(_profiled(subject, steps, small))
    own, calls = shares(stats.stats)
    table = Table("function", "calls/step", "us/step", "share", title=f"{subject.name}, under the profiler")
    for function, seconds in own.most_common(LINES):
        share = seconds / own.total()
        table.add_row(
            _named(function), f"{calls[function] / steps:.2f}", f"{1e6 * seconds / steps:.1f}", f"{share:.0%}"
        )
    rest = own.total() - sum(seconds for _, seconds in own.most_common(LINES))
    table.add_row("all others", "", f"{1e6 * rest / steps:.1f}", f"{rest / own.total():.0%}")
    return table


def shares(stats: dict[Function, Any]) -> tuple[Counter[Function], Counter[Function]]:
    """Seconds and calls of each function of nanscope, with those of the C functions that it calls."""
    own: Counter[Function] = Counter()
    calls: Counter[Function] = Counter()
    for function, (_, count, alone, _, callers) in stats.items():
        if function[0].startswith(HOME):
            own[function] += alone
            calls[function] += count
        elif function[0] == "~":
            for caller, (_, _, alone_from, _) in callers.items():
                if caller[0].startswith(HOME):
                    own[caller] += alone_from
    return own, calls


def _profiled(subject: Subject, steps: int, small: bool) -> cProfile.Profile:
    torch.manual_seed(0)
    profiler = cProfile.Profile()
    with tempfile.TemporaryDirectory() as folder:
        recorded = Recorded(subject.build(small, "cpu"), Path(folder))
        recorded.on()
        for _ in range(subject.warm):
            recorded.step()
        profiler.enable()
        for _ in range(steps):
            recorded.step()
        profiler.disable()
        recorded.close()
    return profiler


def _named(function: Function) -> str:
    file, line, name = function
    return f"{Path(file).relative_to(HOME)}:{line} {name}"
