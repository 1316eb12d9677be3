"""Did the loss jump back to where the training began, or beyond?"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from nanscope.detectors._births import finite_rows
from nanscope.detectors._rows import batch_rows, block_mean, step_of
from nanscope.run import Run
from nanscope.values import Finding, Severity

SAMPLES = 256
"""A block averages at least this many samples: at batch size 1 single losses are heavy-tailed."""
PAST = 16
FACTOR = 3.0


def loss_spike(run: Run) -> Iterable[Finding]:
    """NS302: a block of steps whose mean loss is 3 times all of the 16 before it, and above the first."""
    if not run.has(None, "loss"):
        return
    stop = finite_rows(run)
    block = max(1, math.ceil(SAMPLES / batch_rows(run)))
    means = block_mean(run, "loss", block, stop)
    spikes = spikes_in(means)
    if not spikes.size:
        return
    top = int(spikes[np.argmax(means[spikes])])
    start = stop - means.size * block + top * block
    before = float(np.nanmax(means[top - PAST : top]))
    # The spike's own first block may not be its highest.
    low = np.flatnonzero(~(means[top:] > FACTOR * np.nanmax(np.abs(means[top - PAST : top]))))
    length = (int(low[0]) if low.size else means.size - top) * block
    loss = run.scalar("loss", start, start + length)
    peak = start + int(np.nanargmax(np.where(np.isfinite(loss), loss, np.nan)))
    yield Finding(
        "NS302",
        "loss-spike",
        Severity.WARNING,
        step_of(run, peak),
        f"the loss jumps to {np.nanmax(loss):.3g} at step {step_of(run, peak)}: its mean over {block} "
        f"steps is "
        f"{means[top]:.3g}, at most {before:.3g} before and {means[0]:.3g} when the training began",
        evidence={
            "peak": float(np.nanmax(loss)),
            "block": block,
            "mean": float(means[top]),
            "before": before,
            "first": float(means[0]),
            "spikes": int(spikes.size),
        },
    )


def spikes_in(means: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices of the spikes among block means, shape (spikes,)."""
    if means.size <= PAST:
        return np.zeros(0, np.int64)
    known = np.where(np.isfinite(means), means, -np.inf)
    sizes = np.where(np.isfinite(means), np.abs(means), 0.0)  # a loss may be below zero
    past = np.lib.stride_tricks.sliding_window_view(sizes, PAST)[:-1].max(1)
    here = known[PAST:]
    return np.flatnonzero((here > FACTOR * past) & (here > known[0])).astype(np.int64) + PAST
