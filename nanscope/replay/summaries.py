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
        _look(sums, [self._part(parts, int(i), read) for i in np.flatnonzero(matters)], at[matters])

    def _part(self, parts: Parts, number: int, read: Read) -> Floats:
        """The values of a part; where only summaries are kept, such that nothing of the summary is lost."""
        values = read(int(parts.start[number]), int(parts.stop[number]))
        if values is not None:
            return values
        summary = parts.summary[number]
        bad = np.full(int(self._bad[summary]), np.nan)
        return np.concatenate([[self._low[summary], self._high[summary]], bad]).astype(np.float32)


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


def _look(sums: Sums, values: list[Floats], at: Numbers) -> None:
    """Count the values of parts, each of another column."""
    if not values:
        return
    ends = np.cumsum([len(part) for part in values])
    edges, joined = (ends - [len(part) for part in values], ends), np.concatenate(values)
    finite = np.isfinite(joined)
    known = np.where(finite, joined.astype(np.float64), np.nan)
    sums.low[at] = np.fmin(sums.low[at], reduced(np.fmin, known, *edges))
    sums.high[at] = np.fmax(sums.high[at], reduced(np.fmax, known, *edges))
    sums.total[at] += reduced(np.add, np.where(finite, known, 0.0), *edges, empty=0.0)
    sums.count[at] += reduced(np.add, finite.astype(np.float64), *edges, empty=0.0)
    sums.bad[at] += reduced(np.add, is_nonfinite(joined).astype(np.float64), *edges, empty=0.0)
