"""Columns from summaries, exact at their edges: a summary that lies across an edge is looked into.

It is looked into only where it matters: it holds a value that is not finite, or one that the column would not
reach without it. Of any other summary the column's share counts, and only for the mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanscope.run import Floats, Overview, is_nonfinite

Numbers = NDArray[np.int64]
Read = Callable[[int, int], Floats | None]
"""Values of some rows; None where only summaries are kept."""


@dataclass(slots=True)
class Sums:
    """What is known of columns so far, arrays of shape (columns,)."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    total: NDArray[np.float64]
    count: NDArray[np.float64]
    bad: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Parts:
    """Parts of summaries: of which column, of which summary, first row and the row after the last."""

    column: Numbers
    summary: Numbers
    start: Numbers
    stop: Numbers


class Summaries:
    """One series in buckets of `rows` rows in all."""

    def __init__(self, seen: Overview, rows: int) -> None:
        self._starts, self._stops = seen.starts, np.append(seen.starts[1:], rows)[: len(seen.starts)]
        self._size = self._stops - self._starts
        self._low, self._high = seen.low.astype(np.float64), seen.high.astype(np.float64)
        self._bad = seen.nonfinite.astype(np.float64)
        self._mean = seen.mean.astype(np.float64)
        self._count = np.where(np.isfinite(self._mean), self._size, 0).astype(np.float64)
        self._total = np.where(np.isfinite(self._mean), self._mean, 0.0) * self._count

    def sums(self, starts: Numbers, stops: Numbers, read: Read) -> Sums:
        """Of columns of rows; `low`, `high` and `bad` are those of the values themselves.

        The mean is one of the means of summaries, as if every row of a summary had been measured.
        """
        first = np.searchsorted(self._starts, starts, "left")
        last = np.searchsorted(self._stops, stops, "right")
        sums = self._whole(first, last)
        self._add(sums, self._heads(starts, stops, first), read)
        self._add(sums, self._tails(starts, stops, first, last), read)
        return sums

    def _whole(self, first: Numbers, last: Numbers) -> Sums:
        """Of the summaries that lie within a column."""
        return Sums(
            reduced(np.fmin, self._low, first, last),
            reduced(np.fmax, self._high, first, last),
            reduced(np.add, self._total, first, last, empty=0.0),
            reduced(np.add, self._count, first, last, empty=0.0),
            reduced(np.add, self._bad, first, last, empty=0.0),
        )

    def _heads(self, starts: Numbers, stops: Numbers, first: Numbers) -> Parts:
        """What a column has of the summary in which it begins."""
        at = np.flatnonzero((first > 0) & (starts < stops))
        summary = first[at] - 1
        return _parts(at, summary, starts[at], np.minimum(self._stops[summary], stops[at]))

    def _tails(self, starts: Numbers, stops: Numbers, first: Numbers, last: Numbers) -> Parts:
        """What a column has of the summary in which it ends, if it does not begin in it, too."""
        at = np.flatnonzero((last >= first) & (last < len(self._starts)) & (starts < stops))
        return _parts(at, last[at], self._starts[last[at]], stops[at])

    def _add(self, sums: Sums, parts: Parts, read: Read) -> None:
        at, summary, rows = parts.column, parts.summary, parts.stop - parts.start
        low, high, bad = self._low[summary], self._high[summary], self._bad[summary]
        reaches = (low < sums.low[at]) | (high > sums.high[at])
        matters = (
            reaches | (np.isnan(sums.low[at]) & ~np.isnan(low)) | ((bad > 0) & (bad < self._size[summary]))
        )
        plain = np.where(matters, 0, rows / self._size[summary])
        sums.total[at] += plain * self._total[summary]
        sums.count[at] += plain * self._count[summary]
        sums.bad[at] += plain * bad
        for part in np.flatnonzero(matters):
            values = read(int(parts.start[part]), int(parts.stop[part]))
            if values is None:
                self._count_whole(sums, int(at[part]), int(summary[part]))
            else:
                _count(sums, int(at[part]), values)

    def _count_whole(self, sums: Sums, at: int, summary: int) -> None:
        """Nothing is lost where only summaries are kept: they count on both sides of an edge."""
        sums.low[at] = np.fmin(sums.low[at], self._low[summary])
        sums.high[at] = np.fmax(sums.high[at], self._high[summary])
        sums.total[at] += self._total[summary]
        sums.count[at] += self._count[summary]
        sums.bad[at] += self._bad[summary]


def reduced(
    how: np.ufunc, values: NDArray[np.float64], starts: Numbers, stops: Numbers, *, empty: float = np.nan
) -> NDArray[np.float64]:
    """`how` over values[start:stop] of each column, `empty` where that holds none."""
    begin, end = np.clip(starts, 0, len(values)), np.clip(stops, 0, len(values))
    padded = np.append(values, empty)  # so that an end may lie behind the last value
    found = how.reduceat(padded, np.stack((begin, end), 1).ravel())[::2] if len(begin) else np.empty(0)
    return np.where(end > begin, found, empty)


def _parts(column: Numbers, summary: Numbers, start: Numbers, stop: Numbers) -> Parts:
    there = start < stop
    return Parts(column[there], summary[there], start[there], stop[there])


def _count(sums: Sums, at: int, values: Floats) -> None:
    finite = values[np.isfinite(values)].astype(np.float64)
    sums.low[at] = np.fmin(sums.low[at], finite.min(initial=np.inf) if finite.size else np.nan)
    sums.high[at] = np.fmax(sums.high[at], finite.max(initial=-np.inf) if finite.size else np.nan)
    sums.total[at] += finite.sum()
    sums.count[at] += finite.size
    sums.bad[at] += np.count_nonzero(is_nonfinite(values))
