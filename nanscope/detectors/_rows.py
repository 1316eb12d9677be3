"""How detectors read a run: by overview first, row by row only where something is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from nanscope.run import Bools, Floats, Run, is_missing, is_nonfinite
from nanscope.values import Kind, Site

BUCKET = 4096
"""Rows per bucket of the first look: 440 buckets for 1.8 million steps."""


def sites_of(run: Run, *kinds: Kind, stat: str = "l2") -> tuple[Site, ...]:
    """The sites of these kinds that have this stat, in the order of execution."""
    found = (site for site in run.sites if site.kind in kinds and run.has(site, stat))
    return tuple(sorted(found, key=lambda site: site.order))


def step_of(run: Run, row: int) -> int:
    """Step number of a row."""
    return int(run.steps[row])


def value_at(run: Run, site: Site | None, stat: str, row: int) -> float | None:
    """One cell, or None where it is outside the run, has no column or was not measured."""
    if not 0 <= row < len(run) or not run.has(site, stat):
        return None
    cell = run.source.column(run.index(site, stat), row, row + 1)
    return None if is_missing(cell)[0] else float(cell[0])


def last_value(run: Run, site: Site | None, stat: str, stop: int, reach: int = BUCKET) -> float | None:
    """The last finite measurement before row `stop`, looking back at most `reach` rows."""
    if not run.has(site, stat):
        return None
    values = run.source.column(run.index(site, stat), max(0, stop - reach), stop)
    finite = values[np.isfinite(values)]
    return float(finite[-1]) if finite.size else None


def measured(
    run: Run, site: Site | None, stat: str, start: int, stop: int
) -> tuple[NDArray[np.int64], Floats]:
    """Rows and values of the finite measurements in start..stop."""
    values = run.source.column(run.index(site, stat), start, stop)
    at = np.flatnonzero(np.isfinite(values))
    return at + start, values[at]


def steady_since(run: Run, site: Site | None, stat: str, stop: int) -> int:
    """A row before `stop` from which on the column has one value as far as summaries tell.

    Of the rows before it none need be read to find the constant end of the column.
    """
    overview = run.source.overview(run.index(site, stat), BUCKET)
    inside = int(np.searchsorted(overview.starts, stop))
    low, high = overview.low[:inside], overview.high[:inside]
    measured_at = np.flatnonzero(np.isfinite(low))
    if not measured_at.size:
        return 0
    # The bucket that holds `stop` speaks of rows beyond it, too: it is read in any case.
    known = measured_at[measured_at < inside - 1]
    last = low[known[-1]] if known.size else np.nan
    moved = known[(low[known] != last) | (high[known] != last)]
    return int(overview.starts[moved[-1]]) if moved.size else 0


def bad_mask(run: Run, columns: list[tuple[Site | None, str]]) -> Bools:
    """Rows at which any of the columns holds a measured NaN or inf, shape (rows,).

    A bucket that is bad from end to end, or has nothing bad, is never read.
    """
    mask = np.zeros(len(run), np.bool_)
    for site, stat in columns:
        for start, stop in _flagged(run, run.index(site, stat), mask):
            mask[start:stop] |= is_nonfinite(run.source.column(run.index(site, stat), start, stop))
    return mask


def carry_mask(run: Run, columns: list[tuple[Site | None, str]], known: Bools) -> Bools:
    """Like `bad_mask`, for values measured at a cadence: each holds until the next measurement.

    Rows from the first to the last one that `known` leaves open are all that is looked at.
    """
    mask = np.zeros(len(run), np.bool_)
    end = len(run) - int(np.argmin(known[::-1])) if not known.all() else 0  # behind the last open row
    for site, stat in columns if end else []:
        index = run.index(site, stat)
        flagged = list(_flagged(run, index, np.zeros(0, np.bool_)))
        if not flagged or flagged[0][0] >= end:
            continue
        start = flagged[0][0]
        values = run.source.column(index, start, end)
        last = np.maximum.accumulate(np.where(is_missing(values), 0, np.arange(values.size)))
        mask[start : start + values.size] |= is_nonfinite(values)[last]
    return mask


def _flagged(run: Run, index: int, mask: Bools) -> Iterator[tuple[int, int]]:
    """Row ranges that must be read; ranges that are bad throughout are written into `mask` instead."""
    overview = run.source.overview(index, BUCKET)
    ends = np.append(overview.starts[1:], len(run))
    for bucket in np.flatnonzero(overview.nonfinite):
        start, stop = int(overview.starts[bucket]), int(ends[bucket])
        if mask.size and overview.nonfinite[bucket] == stop - start:
            mask[start:stop] = True
        elif not (mask.size and mask[start:stop].all()):
            yield start, stop


def block_mean(run: Run, name: str, block: int, stop: int) -> NDArray[np.float64]:
    """Means of a scalar over whole blocks of rows that end at `stop`, shape (blocks,).

    Rows before the first whole block are left out; a block without a finite value is NaN.
    """
    count = stop // block
    if not run.has(None, name) or not count:
        return np.full(count, np.nan)
    values = run.scalar(name, stop - count * block, stop).reshape(count, block)
    finite = np.isfinite(values)
    seen = np.count_nonzero(finite, axis=1)
    total = np.sum(np.where(finite, values, np.float32(0)), 1, dtype=np.float64)
    return np.asarray(np.divide(total, seen, out=np.full(count, np.nan), where=seen > 0), np.float64)


def batch_rows(run: Run) -> float:
    """Median number of samples in a step; 1 where it is not recorded."""
    if not run.has(None, "samples"):
        return 1.0
    head = run.scalar("samples", 0, min(len(run), BUCKET))
    seen = head[np.isfinite(head)]
    return max(1.0, float(np.median(seen))) if seen.size else 1.0
