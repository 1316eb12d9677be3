"""The scale of a lane: which value stands in which row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST_DECADES = 12
BELOW = 3  # decades under the usual value that are shown at most


@dataclass(frozen=True, slots=True)
class Scale:
    """From `low` (bottom) to `high` (top); of logarithms to base 10 unless `linear`.

    Attributes:
        over, under: whether some value lies outside.
    """

    low: float
    high: float
    linear: bool
    over: bool = False
    under: bool = False

    def share(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Where values lie, 0 at the bottom to 1 at the top, cut off there; NaN stays NaN."""
        size = self.high - self.low
        return np.clip((self._plain(values) - self.low) / (size or 1.0), 0.0, 1.0)

    def label(self, share: float) -> str:
        """The value at a height, in few letters."""
        value = self.low + share * (self.high - self.low)
        if not self.linear:
            return f"{10.0**value:.0e}" if abs(value) < 300 else f"1e{round(value)}"
        return f"{value:.3g}"

    def _plain(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.linear:
            return values
        with np.errstate(invalid="ignore", divide="ignore"):
            logs = np.log10(np.maximum(values, 0))
        return np.where(np.isnan(values), np.nan, np.maximum(logs, -400.0))


def scale_of(
    lows: Sequence[NDArray[np.float64]], highs: Sequence[NDArray[np.float64]], *, linear: bool
) -> Scale:
    """A scale for the finite values, of 12 decades at most: what is usual is kept in sight."""
    values = np.concatenate([part[np.isfinite(part)] for part in (*lows, *highs)] or [np.empty(0)])
    if not linear:
        values = values[values > 0]
    if not values.size:
        return Scale(0.0, 1.0, linear=linear)
    if linear:
        low, high = float(values.min()), float(values.max())
        return Scale(low, high if high > low else low + 1.0, linear=True)
    logs = np.log10(values)
    usual = float(np.median(logs))
    low = max(math.floor(logs.min()), math.floor(usual) - BELOW)
    high = min(math.ceil(logs.max()), low + MOST_DECADES)
    return Scale(
        low, max(high, low + 1), linear=False, over=bool(logs.max() > high), under=bool(logs.min() < low)
    )
