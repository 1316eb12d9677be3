"""The part of `overhead.py` for a GPU: a transformer of a real size, no sync in any step, nothing lost.

While steps run, any wait of the host for the device is an error (`torch.cuda.set_sync_debug_mode`). Where the
recorder made one, it would step aside; that it did not is checked.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch
from rich.table import Table

from tests.benchmarks.overhead_models import Sizes, Training, language
from tests.benchmarks.overhead_rivals import Bare, Recorded

BAR = 1.02
WARM, BLOCK, SETTLE, ROUNDS = 130, 10, 3, 40
LATEST = 200  # steps that detection may take at most
DEVICE = "cuda"


@dataclass(frozen=True)
class Measured:
    """What was measured.

    Attributes:
        seconds: a bare step.
        ratios: recorded over bare, one per round.
        stepped_aside: whether the recorder failed, as it does where it would make the host wait.
    """

    seconds: float
    ratios: tuple[float, ...]
    stepped_aside: bool


def build(*, small: bool) -> Training:
    """12 layers, width 1024, sequence 1024, batch 8, 32,000 words."""
    if small:
        return language(Sizes(2, 64, 2, 64, 100, 2), DEVICE)
    return language(Sizes(12, 1024, 16, 1024, 32_000, 8), DEVICE)


@contextmanager
def no_sync() -> Iterator[None]:
    """Waiting for the device is an error."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def timed(column: Bare, steps: int, settle: int) -> float:
    """Seconds of a step, the device's work included."""
    column.on()
    with no_sync():
        for _ in range(settle):
            column.step()
    torch.cuda.synchronize()
    begin = perf_counter()
    with no_sync():
        for _ in range(steps):
            column.step()
    torch.cuda.synchronize()
    taken = (perf_counter() - begin) / steps
    column.off()
    return taken


def measure(folder: Path, *, small: bool) -> Measured:
    """Paired blocks in random order."""
    training = build(small=small)
    bare, recorded = Bare(training, folder), Recorded(training, folder)
    timed(recorded, WARM, 0)
    chance, pairs = random.Random(0), []
    for _ in range(2 if small else ROUNDS):
        taken = {each: timed(each, BLOCK, SETTLE) for each in chance.sample([bare, recorded], 2)}
        pairs.append((taken[bare], taken[recorded]))
    stepped_aside = not recorded.recorder._active
    recorded.close()
    return Measured(median(b for b, _ in pairs), tuple(r / b for b, r in pairs), stepped_aside)


def lateness(folder: Path, *, small: bool) -> tuple[int | None, int | None]:
    """Plants a NaN in a weight: the steps until it was noticed, and how far off the step it names is."""
    training = build(small=small)
    recorded = Recorded(training, folder)
    recorded.on()
    for _ in range(WARM):
        recorded.step()
    with torch.no_grad():
        next(training.model.parameters()).view(-1)[:] = torch.nan
    late = next((n for n in range(LATEST) if _noticed(recorded)), None)
    recorded.close()
    trouble = recorded.recorder.trouble
    return late, None if trouble is None else trouble.step - WARM


def _noticed(recorded: Recorded) -> bool:
    with no_sync():
        recorded.step()
    return recorded.recorder.trouble is not None


def table(*, small: bool) -> Table:
    """What was measured, with the bars."""
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), small=small)
    with tempfile.TemporaryDirectory() as folder:
        late, off = lateness(Path(folder), small=small)
    low, middle, high = np.quantile(found.ratios, (0.25, 0.5, 0.75))
    result = Table("", "found", "bar", title=f"transformer on {torch.cuda.get_device_name()}")
    result.add_row("bare, ms", f"{1e3 * found.seconds:.2f}", "")
    rows: tuple[tuple[str, str, Callable[[], bool], str], ...] = (
        ("recorded", f"{middle:.3f} [{low:.3f}, {high:.3f}]", lambda: middle <= BAR, f"<= {BAR}"),
        ("the host waited for the device", _yes(found.stepped_aside), lambda: not found.stepped_aside, "no"),
        ("steps until a NaN is noticed", str(late), lambda: late is not None, f"< {LATEST}"),
        ("its step, off by", str(off), lambda: off == 0, "0"),
    )
    for what, value, met, bar in rows:
        result.add_row(what, value, f"{bar}: {'met' if met() else 'MISSED'}")
    return result


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"
