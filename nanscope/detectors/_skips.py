"""Updates that a gradient scaler skipped, and its scale. Shared by the detectors that ask about them.

A scaler that skips an update does what it is for: the gradients of a scaled loss overflowed, the weights stay
as they were, and the next steps have half the scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanscope.detectors._rows import BUCKET, bad_mask, measured, sites_of
from nanscope.numbers import count
from nanscope.run import Bools, Run
from nanscope.values import Kind

WHOLE, PART = 1.0, 1e-6
"""Shares: every optimizer of the step was skipped, or one of them at least."""
SETTLED = 50
"""So many updates in a row without a skip, and the scale has found its level."""
LONG = 10
"""So many skips in a row halve the scale a thousandfold: a single large gradient does not need them."""


@dataclass(frozen=True, slots=True)
class Scale:
    """The loss scale where it changed: rows and the values from there on, oldest first."""

    rows: NDArray[np.int64]
    values: NDArray[np.float64]

    def at(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """The scale at rows; before the first measurement it is the first."""
        return self.values[np.maximum(np.searchsorted(self.rows, rows, "right") - 1, 0)]


def skip_mask(run: Run, least: float = WHOLE) -> Bools:
    """Rows in which at least this share of the optimizers' updates was skipped, shape (rows,)."""
    mask = np.zeros(len(run), np.bool_)
    if not run.has(None, "skipped"):
        return mask
    index = run.index(None, "skipped")
    overview = run.source.overview(index, BUCKET)
    ends = np.append(overview.starts[1:], len(run))
    for bucket in np.flatnonzero(overview.high >= least):
        start, stop = int(overview.starts[bucket]), int(ends[bucket])
        mask[start:stop] = run.source.column(index, start, stop) >= least
    return mask


def settled_row(mask: Bools) -> int:
    """First row after `SETTLED` updates in a row were made; `len(mask)` when that never was."""
    skips = np.concatenate(([-1], np.flatnonzero(mask), [len(mask)]))
    calm = np.flatnonzero(np.diff(skips) > SETTLED)
    return int(skips[calm[0]]) + 1 + SETTLED if calm.size else len(mask)


def trailing(mask: Bools) -> int:
    """How many rows at the end are skipped, one after the other."""
    kept = np.flatnonzero(~mask)
    return len(mask) - (int(kept[-1]) + 1 if kept.size else 0)


def scale_of(run: Run) -> Scale | None:
    """The loss scale, None where it was not recorded."""
    if not run.has(None, "loss_scale"):
        return None
    rows, values = measured(run, None, "loss_scale", 0, len(run))
    if not rows.size:
        return None
    changed = np.flatnonzero(np.diff(values, prepend=np.nan) != 0)
    return Scale(rows[changed], values[changed].astype(np.float64))


def nonfinite_gradients(run: Run, mask: Bools) -> int:
    """How many of these rows hold a gradient that is not finite."""
    sites = sites_of(run, Kind.GRAD_OUTPUT, Kind.GRAD)
    return int((bad_mask(run, [(site, "l2") for site in sites]) & mask).sum())


def gradients_in_words(nonfinite: int, skipped: int) -> str:
    """Whether the recorded gradients explain the skips, as the end of a sentence."""
    if nonfinite == skipped:
        return "with non-finite gradients each time"
    if not nonfinite:
        return "though every recorded gradient was finite"
    return f"the recorded gradients were non-finite in {count(nonfinite)} of them"


def is_calibrating(run: Run, mask: Bools) -> bool:
    """Whether the run ends before the scale has found its level: skips from the first update on, above 1.

    A scaler starts high on purpose (65,536 by default, 4 billion in some libraries) and halves its way down.
    One that skips without lowering its scale does not.
    """
    scale = scale_of(run)
    if scale is None or not mask.all() or scale.values[-1] < 1:
        return False
    return bool(len(run) - scale.rows[-1] <= LONG)
