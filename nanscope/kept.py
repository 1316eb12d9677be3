"""The rows of a run that are kept whole, as a run: what the detectors look at.

A long run may hold steps of which only summaries are left. Windows and rates are taken over rows, and a row
without values must not count as one that was zero or healthy; so such rows are left out, like lost ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from nanscope.run import Floats, Overview, Run, Source, is_nonfinite

T = TypeVar("T", bound=np.generic)


def kept_rows(run: Run) -> Run:
    """The run without the rows that are there in summaries only."""
    whole = run.source.whole()
    if sum(stop - start for start, stop in whole) == len(run):
        return run
    return replace(run, source=KeptSource(run.source, whole))


def hidden_nonfinite(run: Run) -> int:
    """How many norms were non-finite in rows of which only summaries are left."""
    whole = run.source.whole()
    if sum(stop - start for start, stop in whole) == len(run):
        return 0
    norms = [i for i, column in enumerate(run.header.columns) if column.stat == "l2"]
    everywhere = sum(int(run.source.overview(i, len(run)).nonfinite.sum()) for i in norms)
    kept = (run.source.column(i, *bounds) for i in norms for bounds in whole)
    return everywhere - sum(int(np.count_nonzero(is_nonfinite(values))) for values in kept)


class KeptSource:
    """The given row ranges of a source, one after the other."""

    def __init__(self, source: Source, ranges: Sequence[tuple[int, int]]) -> None:
        self._source = source
        self._ranges = list(ranges)
        sizes = [stop - start for start, stop in ranges]
        self._first = np.cumsum([0, *sizes]).tolist()

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self._first[-1])

    def whole(self) -> tuple[tuple[int, int], ...]:
        """All rows."""
        return ((0, self.rows),)

    def column(self, index: int, start: int, stop: int) -> Floats:
        """One column, shape (stop - start,)."""
        return self._gather(start, stop, lambda low, high: self._source.column(index, low, high))

    def block(self, start: int, stop: int) -> Floats:
        """All columns, shape (stop - start, columns)."""
        return self._gather(start, stop, self._source.block)

    def steps(self, start: int, stop: int) -> NDArray[np.int64]:
        """Step numbers, shape (stop - start,)."""
        return self._gather(start, stop, self._source.steps)

    def times(self, start: int, stop: int) -> NDArray[np.float64]:
        """Seconds since the run began, shape (stop - start,)."""
        return self._gather(start, stop, self._source.times)

    def overview(self, index: int, bucket: int) -> Overview:
        """One column in buckets of these rows."""
        values = self.column(index, 0, self.rows)
        starts = np.arange(0, self.rows, bucket, dtype=np.int64)
        if not starts.size:
            return Overview(bucket, starts, values, values, values, np.zeros(0, np.uint32))
        finite = np.isfinite(values)
        known = np.where(finite, values, np.float32(np.nan))
        count = np.add.reduceat(finite, starts, dtype=np.int64)
        total = np.add.reduceat(np.where(finite, values, 0), starts, dtype=np.float64)
        mean = np.divide(total, count, out=np.full(starts.size, np.nan), where=count > 0)
        low, high = (reduce.reduceat(known, starts) for reduce in (np.fmin, np.fmax))
        nonfinite = np.add.reduceat(is_nonfinite(values), starts, dtype=np.uint32)
        return Overview(bucket, starts, low, high, mean.astype(np.float32), nonfinite)

    def _gather(self, start: int, stop: int, read: Callable[[int, int], NDArray[T]]) -> NDArray[T]:
        parts = [read(low, high) for low, high in self._within(start, stop)]
        return np.concatenate(parts) if parts else read(0, 0)

    def _within(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """The rows start..stop as ranges of the source."""
        for (low, high), first in zip(self._ranges, self._first, strict=False):
            begin, end = max(low, low + start - first), min(high, low + stop - first)
            if begin < end:
                yield begin, end
