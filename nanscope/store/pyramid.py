"""The pyramid: columns summarised in buckets, so that a screen never reads a long series whole.

A summary is a float32 array of shape (columns, quantities, buckets). Counts fit float32 exactly up to 2^24
rows per bucket. `low`, `high` and `mean` are over the finite values (NaN where there are none), `last` is the
last value as it is, MISSING counts nowhere.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nanscope.run import MISSING, Floats, is_missing

QUANTITIES = ("low", "high", "mean", "last", "finite", "nan", "inf")
LOW, HIGH, MEAN, LAST, FINITE, NAN, INF = range(len(QUANTITIES))


def summarise(values: Floats, bucket: int) -> Floats:
    """Summary of rows, shape (rows, columns), in buckets of `bucket` rows; the last one may be shorter."""
    rows, columns = values.shape
    cells = -(-rows // bucket)
    x = _padded(values, cells * bucket).reshape(cells, bucket, columns)
    finite = np.isfinite(x)
    seen = np.where(finite, x, np.float32(np.nan))
    out = np.empty((columns, len(QUANTITIES), cells), np.float32)
    count = finite.sum(axis=1)
    out[:, LOW] = np.fmin.reduce(seen, axis=1).T
    out[:, HIGH] = np.fmax.reduce(seen, axis=1).T
    out[:, MEAN] = _mean(np.where(finite, x, np.float32(0)).sum(axis=1, dtype=np.float64), count).T
    out[:, LAST] = values[np.minimum(np.arange(1, cells + 1) * bucket, rows) - 1].T
    out[:, FINITE] = count.T
    out[:, NAN] = (np.isnan(x) & ~is_missing(x)).sum(axis=1).T
    out[:, INF] = np.isinf(x).sum(axis=1).T
    return out


def coarsen(summary: Floats, factor: int) -> Floats:
    """Summary with `factor` neighbouring buckets made one; shape (..., quantities, buckets)."""
    cells = summary.shape[-1]
    starts = np.arange(0, cells, factor)
    out = np.empty((*summary.shape[:-1], len(starts)), np.float32)
    weight = summary[..., FINITE, :].astype(np.float64)
    count = np.add.reduceat(weight, starts, axis=-1)
    # an empty bucket has mean NaN and weight 0: it must not reach the sum
    total = np.where(weight > 0, summary[..., MEAN, :], 0) * weight
    out[..., LOW, :] = np.fmin.reduceat(summary[..., LOW, :], starts, axis=-1)
    out[..., HIGH, :] = np.fmax.reduceat(summary[..., HIGH, :], starts, axis=-1)
    out[..., MEAN, :] = _mean(np.add.reduceat(total, starts, axis=-1), count)
    out[..., LAST, :] = summary[..., LAST, np.minimum(starts + factor, cells) - 1]
    out[..., FINITE, :] = count
    for quantity in (NAN, INF):
        out[..., quantity, :] = np.add.reduceat(summary[..., quantity, :], starts, axis=-1)
    return out


def pyramid(values: Floats, levels: dict[str, int]) -> dict[str, Floats]:
    """Every level of a whole block, fine to coarse; each is made of the one before it."""
    summaries: dict[str, Floats] = {}
    (finest, finer), *coarser = levels.items()
    summaries[finest] = summary = summarise(values, finer)
    for name, rows in coarser:
        summaries[name] = summary = coarsen(summary, rows // finer)
        finer = rows
    return summaries


def _padded(values: Floats, rows: int) -> Floats:
    if len(values) == rows:
        return values
    return np.concatenate([values, np.full((rows - len(values), values.shape[1]), MISSING, np.float32)])


def _mean(total: NDArray[np.float64], count: NDArray[np.float64] | NDArray[np.int64]) -> NDArray[np.float64]:
    mean = np.full(total.shape, np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    return mean
