"""How norms grew before the trouble, small enough to print: one character per step or bucket of steps.

A character tells the decades above the site's own usual level, which makes layers comparable that live on
different scales and needs no colour.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanscope.run import Column, Floats, Run, is_missing, is_nonfinite
from nanscope.values import Kind

COLUMNS = 32
REACH = 4096
"""Rows looked back over; a slower growth is the diagnosis' to tell in words."""
USUAL = 1000
ROWS = 5

LOSS = "loss"
USUAL_MARK, BAD_MARK, GAP_MARK = ".", "x", " "

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Strip:
    """One series before the trouble.

    Attributes:
        name: the site in words, or `loss`.
        marks: a character per column: `.` less than a decade above the usual level, a digit for what is
            above it, `x` when a value was NaN or inf, a blank when nothing was measured.
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
        bucket: rows per column.
        decades: what a digit counts; a part of it counts as one.
    """

    strips: tuple[Strip, ...]
    first: int
    last: int
    bucket: int
    decades: int


@dataclass(frozen=True, slots=True)
class _Series:
    name: str
    values: Floats
    usual: float
    last: float

    @property
    def rise(self) -> float:
        """Decades between the usual and the last finite value."""
        return float(np.log10(self.last / self.usual))


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
    found = (_series(name, usual[:, i], recent[:, i], birth - start) for i, name in columns.items())
    chosen = _chosen([series for series in found if series is not None], run)
    if not chosen:
        return None
    decades = max(1, -(-int(max(_peak(series) for series in chosen)) // 9))
    strips = sorted((_strip(series, bucket, decades) for series in chosen), key=_first_move)
    return Growth(tuple(strips), int(run.steps[start]), int(run.steps[stop - 1]), bucket, decades)


def _window(run: Run, birth: int, since: int | None) -> tuple[int, int]:
    """First row and rows per column; the last column begins with the trouble."""
    wanted = birth - COLUMNS + 1
    if since is not None:
        wanted = min(wanted, int(np.searchsorted(run.steps, since)) - 2)
    rows = birth - max(0, birth - REACH, wanted)
    bucket = max(1, -(-rows // (COLUMNS - 1)))
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


def _series(name: str, early: Floats, recent: Floats, birth: int) -> _Series | None:
    usual, before = _positive(early), _positive(recent[:birth])
    if not usual.size or not before.size or before[-1] < 10 * np.median(usual):
        return None
    return _Series(name, recent, float(np.median(usual)), float(before[-1]))


def _positive(values: Floats) -> Doubles:
    return values[np.isfinite(values) & (values > 0)].astype(np.float64)


def _chosen(found: list[_Series], run: Run) -> list[_Series]:
    """The loss and one series per module, the steepest first."""
    best: dict[str, _Series] = {}
    modules = {str(site): site.module for site in run.sites}
    for series in found:
        module = modules.get(series.name, series.name)
        if module not in best or series.rise > best[module].rise:
            best[module] = series
    return sorted(best.values(), key=lambda series: (series.name != LOSS, -series.rise))[:ROWS]


def _peak(series: _Series) -> float:
    return float(np.log10(_positive(series.values).max() / series.usual))


def _strip(series: _Series, bucket: int, decades: int) -> Strip:
    parts = (series.values[at : at + bucket] for at in range(0, series.values.size, bucket))
    marks = "".join(_mark(part, series.usual, decades) for part in parts)
    return Strip(series.name, marks, series.usual, series.last)


def _mark(values: Floats, usual: float, decades: int) -> str:
    """The worst of a bucket in one character."""
    if is_nonfinite(values).any():
        return BAD_MARK
    if is_missing(values).all():
        return GAP_MARK
    positive = _positive(values)
    above = int(np.floor(np.log10(positive.max() / usual))) if positive.size else 0
    return USUAL_MARK if above < 1 else str(-(-above // decades))


def _first_move(strip: Strip) -> int:
    """Column of the first mark above the usual."""
    return next(
        (i for i, mark in enumerate(strip.marks) if mark not in (USUAL_MARK, GAP_MARK)), len(strip.marks)
    )
