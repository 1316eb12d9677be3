"""Columns: a series as so many columns of a screen, in which nothing is lost.

A column holds the lowest, the highest and the mean of the finite values of its rows, and how many were not
finite: a spike or a NaN of a single step is seen at every zoom. Wide columns come from the run's summaries (a
summary that lies across an edge counts on both sides, a quarter of a column at most), narrow ones from rows.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanscope.run import Floats, Overview, Run, is_missing, is_nonfinite
from nanscope.values import Site

BUCKETS = (4096, 512, 64)
ENOUGH = 4  # summaries per column, at least
BLOCK = 4096  # rows that are read at once
MOST_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Columns:
    """Arrays of shape (columns,).

    Attributes:
        low, high, mean: over the finite values, NaN where there is none.
        bad: how many values were NaN or infinite.
        measured: whether there was any value.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    mean: NDArray[np.float64]
    bad: NDArray[np.int64]
    measured: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Edges:
    """Rows at which columns begin and end, rising, shape (columns,); an empty one has `stop <= start`."""

    starts: NDArray[np.int64]
    stops: NDArray[np.int64]


def edges_of(start: int, stop: int, count: int) -> Edges:
    """The window start..stop in `count` columns; each has a row at least."""
    at = start + (stop - start) * np.arange(count + 1) / max(1, count)
    starts = np.floor(at[:-1]).astype(np.int64)
    stops = np.maximum(np.ceil(at[1:] - 1e-9).astype(np.int64), starts + 1)
    return Edges(starts, np.minimum(stops, max(stop, start + 1)))


class Reader:
    """Reads columns of one run, and keeps what it has read (64 MB at most)."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._kept: OrderedDict[tuple[int, int], tuple[int, Overview | Floats]] = OrderedDict()
        self._bytes = 0

    def columns(self, site: Site | None, stat: str, edges: Edges) -> Columns:
        """One stat of a site (`None`: a scalar) in columns.

        Raises:
            NotRecordedError: the run has no such series.
        """
        index = self.run.index(site, stat)
        start = int(edges.starts[0]) if len(edges.starts) else 0
        stop = min(int(edges.stops.max(initial=0)), len(self.run))
        wide = (stop - start) / max(1, len(edges.starts))
        bucket = next((size for size in BUCKETS if size * ENOUGH <= wide), 0)
        if bucket or not self._is_whole(start, stop):
            return _of_overview(self.overview(index, bucket or BUCKETS[-1]), edges, len(self.run))
        return _of_rows(self.rows(index, start, stop), start, edges)

    def rows(self, index: int, start: int, stop: int) -> Floats:
        """The values of a column of the run, by blocks that hold all columns."""
        if stop <= start:
            return np.empty(0, np.float32)
        first, last = start // BLOCK, (stop - 1) // BLOCK
        parts = [self._block(number)[:, index] for number in range(first, last + 1)]
        return np.concatenate(parts)[start - first * BLOCK : stop - first * BLOCK]

    def row(self, row: int) -> Floats:
        """All numbers of one row."""
        found: Floats = self._block(row // BLOCK)[row % BLOCK]
        return found

    def overview(self, index: int, bucket: int) -> Overview:
        """The summaries of a column of the run."""
        known = self._known((index, bucket))
        if isinstance(known, Overview):
            return known
        found = self.run.source.overview(index, bucket)
        self._keep((index, bucket), found, 28 * len(found.starts))
        return found

    def _block(self, number: int) -> Floats:
        known = self._known((-1, number))
        if isinstance(known, np.ndarray) and len(known) == self._block_rows(number):
            return known
        begin = number * BLOCK
        found = self.run.source.block(begin, begin + self._block_rows(number))
        self._keep((-1, number), found, found.nbytes)
        return found

    def _block_rows(self, number: int) -> int:
        return min(BLOCK, len(self.run) - number * BLOCK)

    def _known(self, key: tuple[int, int]) -> Overview | Floats | None:
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][1]

    def _keep(self, key: tuple[int, int], found: Overview | Floats, size: int) -> None:
        self._bytes += size - self._kept.pop(key, (0, found))[0]
        self._kept[key] = size, found
        while self._bytes > MOST_BYTES and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1][0]

    def _is_whole(self, start: int, stop: int) -> bool:
        return any(first <= start and stop <= last for first, last in self.run.source.whole())


def _of_rows(values: Floats, start: int, edges: Edges) -> Columns:
    finite, wide = np.isfinite(values), values.astype(np.float64)
    count = _reduced(np.add, finite.astype(np.float64), start, edges, empty=0.0)
    total = _reduced(np.add, np.where(finite, wide, 0.0), start, edges, empty=0.0)
    bad = _reduced(np.add, is_nonfinite(values).astype(np.float64), start, edges, empty=0.0)
    seen = _reduced(np.add, (~is_missing(values)).astype(np.float64), start, edges, empty=0.0)
    return Columns(
        _reduced(np.fmin, np.where(finite, wide, np.nan), start, edges),
        _reduced(np.fmax, np.where(finite, wide, np.nan), start, edges),
        np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0),
        bad.astype(np.int64),
        seen > 0,
    )


def _of_overview(overview: Overview, edges: Edges, rows: int) -> Columns:
    first = np.searchsorted(overview.starts, edges.starts, "right") - 1
    last = np.searchsorted(overview.starts, np.minimum(edges.stops, rows), "left")
    within = Edges(first, np.where(edges.stops > edges.starts, last, first))
    mean = overview.mean.astype(np.float64)
    known = np.isfinite(mean)
    count = _reduced(np.add, known.astype(np.float64), 0, within, empty=0.0)
    total = _reduced(np.add, np.where(known, mean, 0.0), 0, within, empty=0.0)
    bad = _reduced(np.add, overview.nonfinite.astype(np.float64), 0, within, empty=0.0)
    return Columns(
        _reduced(np.fmin, overview.low.astype(np.float64), 0, within),
        _reduced(np.fmax, overview.high.astype(np.float64), 0, within),
        np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0),
        bad.astype(np.int64),
        (bad > 0) | (count > 0),
    )


def _reduced(
    how: np.ufunc, values: NDArray[np.float64], start: int, edges: Edges, *, empty: float = np.nan
) -> NDArray[np.float64]:
    """`how` over the values of each column, `empty` where there is none."""
    begin = np.clip(edges.starts - start, 0, len(values))
    end = np.clip(edges.stops - start, 0, len(values))
    padded = np.append(values, empty)  # so that an end may lie behind the last value
    found = how.reduceat(padded, np.stack((begin, end), 1).ravel())[::2] if len(begin) else np.empty(0)
    return np.where(end > begin, found, empty)
