"""The axis: what rows of different cases have in common, so that they can stand side by side."""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from nanscope.replay.cases import Case

BUCKET = 4096


class Unit(StrEnum):
    """What is counted along the axis."""

    SAMPLES = "samples"
    STEPS = "steps"
    EPOCHS = "epochs"
    TIME = "time"


class Axis:
    """Positions of the rows of one case."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._sums: NDArray[np.float64] | None = None
        self._rows = -1
        self._batch = 1.0

    def at(self, row: int, unit: Unit) -> float:
        """Where a row is: samples seen after it, its step, epochs after it, seconds since the begin."""
        rows = self._case.rows
        if not rows:
            return 0.0
        row = max(0, min(rows - 1, row))
        if unit is Unit.STEPS:
            return float(self._case.step(row))
        if unit is Unit.TIME:
            return float(self._case.run.source.times(row, row + 1)[0])
        if unit is Unit.EPOCHS and self._case.per_epoch:
            return (self._case.step(row) + 1) / self._case.per_epoch
        return self._samples(row)

    def row(self, position: float, unit: Unit) -> int:
        """The last row at or before a position."""
        low, high = 0, self._case.rows - 1
        while low < high:
            middle = (low + high + 1) // 2
            if self.at(middle, unit) <= position:
                low = middle
            else:
                high = middle - 1
        return max(0, low)

    def _samples(self, row: int) -> float:
        self._learn()
        if self._sums is not None:
            return float(self._sums[row])
        return float(self._case.step(row) + 1) * self._batch  # steps that were not recorded had samples, too

    def _learn(self) -> None:
        """Whether all steps have the same number of samples, which their summaries tell; else their sums."""
        run, rows = self._case.run, self._case.rows
        if self._rows == rows:
            return
        self._rows, self._sums, self._batch = rows, None, 1.0
        if not run.has(None, "samples"):
            return
        seen = self._case.reader.overview(run.index(None, "samples"), BUCKET)
        low, high = np.nanmin(seen.low, initial=np.inf), np.nanmax(seen.high, initial=-np.inf)
        if low == high and not seen.nonfinite.any():
            self._batch = float(low)
            return
        values = run.scalar("samples").astype(np.float64)
        self._sums = np.cumsum(np.where(np.isfinite(values), values, 0.0))
