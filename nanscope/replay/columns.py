"""Columns: a series as so many columns of a screen, in which nothing is lost.

A column holds the lowest, the highest and the mean of the finite values of its rows, and how many were not
finite: a spike or a NaN of a single step is seen at every zoom, in the column of its row and in no other.
Wide columns come from the run's summaries and, at their edges, from rows; narrow ones from rows alone.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanscope.replay.summaries import Summaries, reduced
from nanscope.run import Floats, Overview, Run, is_nonfinite
from nanscope.values import Site

BUCKETS = ((65_536, 4096), (8_192, 512), (256, 64))
"""Rows per column, at least, and the summaries that it is made of."""
BLOCK = 4096  # rows that are read at once
MOST_BYTES = 24 << 20


@dataclass(frozen=True, slots=True)
class Columns:
    """Arrays of shape (columns,).

    Attributes:
        low, high: of the finite values, NaN where there is none.
        mean: the same; of wide columns, that of the means of summaries.
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
    """The window start..stop in `count` columns; each has a row at least.

    A row is in column `(row - start) * count // (stop - start)` and in no other; in a window of fewer rows
    than columns each row has several.
    """
    rows, at = max(1, stop - start), np.arange(count + 1, dtype=np.int64)
    if rows < count:
        starts = start + at[:-1] * rows // count
        return Edges(starts, starts + 1)
    edges = start - (-at * rows) // count
    return Edges(edges[:-1], edges[1:])


Kept = Overview | Floats | Columns
Key = tuple[int, int] | tuple[int, bytes, bytes]


class Reader:
    """Reads columns of one run, and keeps what it has read (24 MB at most)."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._kept: OrderedDict[Key, tuple[int, Kept]] = OrderedDict()
        self._bytes = 0

    def columns(self, site: Site | None, stat: str, edges: Edges) -> Columns:
        """One stat of a site (`None`: a scalar) in columns.

        Raises:
            NotRecordedError: the run has no such series.
        """
        index = self.run.index(site, stat)
        key = index, edges.starts.tobytes(), edges.stops.tobytes()
        known = self._known(key)
        if isinstance(known, Columns):
            return known
        found = self._columns(index, edges)
        self._keep(key, found, 50 * len(edges.starts))
        return found

    def _columns(self, index: int, edges: Edges) -> Columns:
        start = int(edges.starts[0]) if len(edges.starts) else 0
        stop = min(int(edges.stops.max(initial=0)), len(self.run))
        wide = (stop - start) / max(1, len(edges.starts))
        bucket = next((size for least, size in BUCKETS if wide >= least), 0)
        if bucket or not self._is_whole(start, stop):
            return self._of_summaries(index, bucket or BUCKETS[-1][1], edges)
        return _of_rows(self.rows(index, start, stop), start, edges)

    def _of_summaries(self, index: int, bucket: int, edges: Edges) -> Columns:
        def read(start: int, stop: int) -> Floats | None:
            return self.column(index, start, stop) if self._is_whole(start, stop) else None

        rows = len(self.run)
        stops = np.minimum(edges.stops, rows)
        sums = Summaries(self.overview(index, bucket), rows).sums(edges.starts, stops, read)
        mean = np.divide(sums.total, sums.count, out=np.full(len(stops), np.nan), where=sums.count > 0)
        bad = np.rint(sums.bad).astype(np.int64)
        return Columns(sums.low, sums.high, mean, bad, (bad > 0) | (sums.count > 0))

    def column(self, index: int, start: int, stop: int) -> Floats:
        """The values of a column of the run, of which nothing is kept: for a few rows here and there."""
        return self.run.source.column(index, start, stop)

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

    def _known(self, key: Key) -> Kept | None:
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][1]

    def _keep(self, key: Key, found: Kept, size: int) -> None:
        self._bytes += size - self._kept.pop(key, (0, found))[0]
        self._kept[key] = size, found
        while self._bytes > MOST_BYTES and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1][0]

    def _is_whole(self, start: int, stop: int) -> bool:
        return any(first <= start and stop <= last for first, last in self.run.source.whole())


def _of_rows(values: Floats, start: int, edges: Edges) -> Columns:
    finite, wide = np.isfinite(values), values.astype(np.float64)
    begin, end = edges.starts - start, edges.stops - start
    count = reduced(np.add, finite.astype(np.float64), begin, end, empty=0.0)
    total = reduced(np.add, np.where(finite, wide, 0.0), begin, end, empty=0.0)
    bad = reduced(np.add, is_nonfinite(values).astype(np.float64), begin, end, empty=0.0)
    seen = np.where(finite, wide, np.nan)
    return Columns(
        reduced(np.fmin, seen, begin, end),
        reduced(np.fmax, seen, begin, end),
        np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0),
        bad.astype(np.int64),
        (bad > 0) | (count > 0),
    )
