"""How norms grew before the trouble, small enough to print: one character per step or bucket of steps.

A character is the number of decades above the site's own usual level, which makes layers comparable that
live on different scales and needs no colour.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanscope.run import Column, Floats, Run, is_missing, is_nonfinite
from nanscope.values import Kind

COLUMNS = 30
REACH = 4096
"""Rows looked back over; a slower growth is the diagnosis' to tell in words."""
USUAL = 1000
ROWS = 5

LOSS = "loss"
USUAL_MARK, MORE_MARK, BAD_MARK, GAP_MARK = ".", "+", "x", " "

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Strip:
    """One series before the trouble.

    Attributes:
        name: the site in words, or `loss`.
        marks: a character per column: `.` within a decade of the usual level or below, `1` to `9` decades
            above it, `+` more, `x` when a value was NaN or inf, a blank when nothing was measured.
        usual: median over the beginning of the run.
        last: the last finite value before the trouble.
    """

    name: str
    marks: str
    usual: float
    last: float


@dataclass(frozen=True, slots=True)
class Growth:
    """The series that grew by a decade or more, those that moved first on top.

    Attributes:
        first, last: steps of the first and of the last column.
        bucket: steps per column.
    """

    strips: tuple[Strip, ...]
    first: int
    last: int
    bucket: int


def growth_before(run: Run, step: int | None, since: int | None) -> Growth | None:
    """What grew before a step (the end of the run when None); None when nothing rose by a decade.

    Args:
        step: the step of the trouble.
        since: a step from which on the growth should be seen, at most `REACH` rows before the trouble.
    """
    if not len(run):
        return None
    birth = len(run) if step is None else int(np.searchsorted(run.steps, step))
    start, bucket = _window(run, birth, since)
    stop = min(len(run), birth + bucket)
    columns = dict(_candidates(run))
    if not columns or start >= stop:
        return None
    usual = run.source.block(0, max(1, min(USUAL, birth // 10)))
    recent = run.source.block(start, stop)
    drawn = (_strip(name, usual[:, i], recent[:, i], birth - start, bucket) for i, name in columns.items())
    strips = _chosen([strip for strip in drawn if strip is not None], run)
    if not strips:
        return None
    return Growth(strips, int(run.steps[start]), int(run.steps[stop - 1]), bucket)


def _window(run: Run, birth: int, since: int | None) -> tuple[int, int]:
    """First row and rows per column; the last two columns are the trouble and what came after it."""
    wanted = birth - COLUMNS + 2
    if since is not None:
        wanted = min(wanted, int(np.searchsorted(run.steps, since)) - 2)
    rows = birth - max(0, birth - REACH, wanted)
    bucket = max(1, -(-rows // (COLUMNS - 2)))
    # Counted back from the trouble, so that it opens a column of its own.
    return max(0, birth - bucket * -(-rows // bucket)), bucket


def _candidates(run: Run) -> Iterator[tuple[int, str]]:
    """Position and name of the columns that may be drawn; the root's output repeats its last layer's."""
    alone = all(site.name == "" for site in run.sites)
    for index, column in enumerate(run.header.columns):
        site = column.site
        if column == Column(None, LOSS):
            yield index, LOSS
        elif site and column.stat == "l2" and site.kind is not Kind.INPUT and (site.name or alone):
            yield index, str(site)


def _strip(name: str, early: Floats, recent: Floats, birth: int, bucket: int) -> Strip | None:
    usual = _positive(early)
    before = _positive(recent[:birth])
    if not usual.size or not before.size:
        return None
    level = float(np.median(usual))
    if before[-1] < 10 * level:
        return None
    parts = (recent[at : at + bucket] for at in range(0, recent.size, bucket))
    return Strip(name, "".join(_mark(part, level) for part in parts), level, float(before[-1]))


def _positive(values: Floats) -> Doubles:
    return values[np.isfinite(values) & (values > 0)].astype(np.float64)


def _mark(values: Floats, level: float) -> str:
    """The worst of a bucket in one character."""
    if is_nonfinite(values).any():
        return BAD_MARK
    if is_missing(values).all():
        return GAP_MARK
    positive = _positive(values)
    decades = int(np.floor(np.log10(positive.max() / level))) if positive.size else 0
    if decades < 1:
        return USUAL_MARK
    return str(decades) if decades <= 9 else MORE_MARK


def _chosen(found: list[Strip], run: Run) -> tuple[Strip, ...]:
    """The loss and one series per module, the steepest; the first to move on top."""
    best: dict[str, Strip] = {}
    modules = {str(site): site.module for site in run.sites}
    for strip in found:
        module = modules.get(strip.name, strip.name)
        if module not in best or _decades(strip) > _decades(best[module]):
            best[module] = strip
    steepest = sorted(best.values(), key=lambda s: (s.name != LOSS, -_decades(s)))[:ROWS]
    return tuple(sorted(steepest, key=lambda strip: (_first_move(strip.marks), -_decades(strip))))


def _decades(strip: Strip) -> float:
    return float(np.log10(strip.last / strip.usual))


def _first_move(marks: str) -> int:
    return next((i for i, mark in enumerate(marks) if mark not in (USUAL_MARK, GAP_MARK)), len(marks))
