"""Summaries counted again, the slow way: bucket by bucket in float64, with nothing of what wrote them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nanscope.run import Floats, is_missing
from nanscope.store.pyramid import FINITE, HIGH, INF, LAST, LOW, MEAN, NAN, QUANTITIES

# a mean went through float32 up to three times, and its sum was not exact; relative to the largest value
_MEAN_ERROR = 1e-6
_SMALLEST = float(np.finfo(np.float32).smallest_subnormal)


class Disagreement(NamedTuple):
    """One number of a summary that the values do not confirm: what the summary says, what they say."""

    column: int
    cell: int
    quantity: str
    stored: float
    counted: float


def disagreements(stored: Floats, values: Floats, bucket: int, error: float = 0.0) -> Iterator[Disagreement]:
    """Hold summaries against the values.

    Args:
        stored: summaries, shape (columns, quantities, cells).
        values: rows, shape (rows, columns); the last bucket may be shorter.
        bucket: rows in a cell.
        error: by how much, relative to their size, stored values may be off (a lossy file).
    """
    for cell in range(stored.shape[2]):
        counted, size = _count(values[cell * bucket : (cell + 1) * bucket])
        allowed = {MEAN: (_MEAN_ERROR + error) * size + 2 * _SMALLEST}
        allowed |= dict.fromkeys((LOW, HIGH, LAST), error * size)
        for quantity, expected in counted.items():
            found = stored[:, quantity, cell].astype(np.float64)
            with np.errstate(invalid="ignore"):  # inf - inf: then they are equal
                near = np.abs(found - expected) <= allowed.get(quantity, 0.0)
            same = near | (found == expected) | (np.isnan(found) & np.isnan(expected))
            for column in np.flatnonzero(~same):
                yield Disagreement(
                    int(column), cell, QUANTITIES[quantity], float(found[column]), float(expected[column])
                )


def _count(rows: Floats) -> tuple[dict[int, NDArray[np.float64]], NDArray[np.float64]]:
    """Every quantity of one bucket by column, and the size of its largest finite value."""
    finite = np.isfinite(rows)
    with np.errstate(invalid="ignore"):  # a signalling NaN is a NaN
        exact = rows.astype(np.float64)
    number = finite.sum(axis=0).astype(np.float64)
    some = number > 0
    total = np.where(finite, exact, 0.0).sum(axis=0)
    counted = {
        LOW: np.where(some, np.where(finite, exact, np.inf).min(axis=0), np.nan),
        HIGH: np.where(some, np.where(finite, exact, -np.inf).max(axis=0), np.nan),
        MEAN: np.where(some, total / np.maximum(number, 1), np.nan),
        LAST: exact[-1],
        FINITE: number,
        NAN: (np.isnan(exact) & ~is_missing(rows)).sum(axis=0).astype(np.float64),
        INF: np.isinf(exact).sum(axis=0).astype(np.float64),
    }
    return counted, np.where(finite, np.abs(exact), 0.0).max(axis=0)
