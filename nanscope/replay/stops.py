"""Stops: the rows of a case at which something happened, and where two cases part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanscope.replay.axis import Axis, Unit
from nanscope.replay.cases import Case
from nanscope.replay.columns import Edges
from nanscope.replay.marks import Mark
from nanscope.values import Severity

PARTED = 2.0
"""A loss this many times that of the baseline, for good, has left it."""
CELLS = 256


@dataclass(frozen=True, slots=True)
class Stop:
    """A row with what happened there; `module` is None where it belongs to none."""

    row: int
    severity: Severity
    what: str
    module: str | None = None


def stops_of(case: Case, marks: Sequence[Mark] = ()) -> tuple[Stop, ...]:
    """Findings, links of the trail and marks, by row; of several at a row the worst, of equals the first."""
    diagnosis = case.diagnosis
    found = [
        Stop(case.row_of(f.step), f.severity, f.message, f.site.module if f.site else None)
        for f in diagnosis.findings
    ]
    found += [
        Stop(case.row_of(link.step), Severity.NOTE, link.what, link.site.module if link.site else None)
        for link in diagnosis.trail
    ]
    found += [Stop(case.row_of(mark.step), Severity.NOTE, f"mark: {mark.note}") for mark in marks]
    by_row: dict[int, Stop] = {}
    for stop in sorted(found, key=lambda each: -each.severity):
        by_row.setdefault(stop.row, stop)
    return tuple(by_row[row] for row in sorted(by_row))


def next_stop(stops: Sequence[Stop], row: int, *, forward: bool) -> Stop | None:
    """The nearest behind, or before, a row."""
    if forward:
        return next((stop for stop in stops if stop.row > row), None)
    return next((stop for stop in reversed(stops) if stop.row < row), None)


def first_bad(case: Case) -> Stop | None:
    """The first harmful non-finite value: of the origin, else of the first finding that is one."""
    origin = case.diagnosis.origin
    if origin is not None:
        return Stop(case.row_of(origin.step), Severity.ERROR, "first non-finite value", origin.module)
    return None


def divergence(case: Case, baseline: Case) -> int | None:
    """The row from which on the loss is worse than twice the baseline's, or not finite, until the end.

    A loss below zero is worse by more than its own size.

    Both losses are means over 256 equal stretches of the samples that both have seen. A stretch in which the
    case has no step says nothing; one in which the baseline has none is held against the step it stands at.
    """
    if case is baseline or not (case.run.has(None, "loss") and baseline.run.has(None, "loss")):
        return None
    axes = Axis(case), Axis(baseline)
    end = min(axis.at(each.rows - 1, Unit.SAMPLES) for axis, each in zip(axes, (case, baseline), strict=True))
    at = [np.array([axis.row(end * i / CELLS, Unit.SAMPLES) for i in range(CELLS + 1)]) for axis in axes]
    for rows in at:
        rows[-1] += 1  # the last stretch ends with the last row
    mine = _means(case, at[0][:-1], at[0][1:])
    its = _means(baseline, at[1][:-1], np.maximum(at[1][1:], at[1][:-1] + 1))
    parted = (mine > its + (PARTED - 1) * np.abs(its)) | ~np.isfinite(mine)
    known = (np.diff(at[0]) > 0) & np.isfinite(its)
    together = np.flatnonzero(known & ~parted)
    first = int(together[-1]) + 1 if together.size else 0
    if not (known & parted)[first:].any():
        return None
    return int(at[0][first])


def _means(case: Case, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean of the loss over stretches of rows; NaN where a value is not finite, or none is there."""
    columns = case.reader.columns(None, "loss", Edges(starts, stops))
    return np.where(columns.bad > 0, np.nan, columns.mean)
