"""Does the loss scale sink, so that it is no longer the scale that makes the gradients overflow?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from nanscope.detectors._rows import step_of
from nanscope.detectors._skips import Scale, scale_of, settled_row, skip_mask
from nanscope.numbers import count, number
from nanscope.run import Run
from nanscope.values import Finding, Phase, Severity

WINDOW = 2000
"""Rows in which a scaler that skips nothing would have doubled its scale (its default `growth_interval`)."""
FALL = 10.0  # halvings: a factor of 1,024
SWING = 8.0
"""A scale at its level doubles, is found too high and halves; three halvings in a row are no chance."""
TINY = 2.0**-126
"""The smallest normal float32: a scale below it loses its digits, and soon its reciprocal overflows."""


@dataclass(frozen=True, slots=True)
class _Fall:
    """A fall of the scale that nothing followed: rows start..stop, and the scale at both."""

    start: int
    stop: int
    before: float
    after: float


def sinking_scale(run: Run) -> Iterable[Finding]:
    """NS307: the loss scale falls 1,024-fold within 2,000 steps, or below 1, and does not grow again.

    A scale below 1 makes the gradients smaller than they are: if they overflow even so, the cause is another
    one. PyTorch's documentation of `GradScaler.update` says the same; pytorch/pytorch#99640 is such a run.
    """
    scale = scale_of(run)
    if scale is None:
        return
    mask = skip_mask(run)
    grown = _last_growth(scale)
    settled = max(grown, int(np.searchsorted(scale.rows, settled_row(mask), "right")) - 1)
    fall = _below_one(scale, settled) or _below_one(scale, grown) or _steep(scale, settled)
    skipped = int(mask[fall.start : fall.stop].sum()) if fall else 0
    if fall is None or not skipped:  # lowered by hand, which may be meant
        return
    start, stop = step_of(run, fall.start), step_of(run, fall.stop)
    yield Finding(
        "NS307",
        "sinking-loss-scale",
        Severity.ERROR if fall.after < TINY else Severity.WARNING,
        start,
        f"the loss scale sinks from {number(fall.before)} at step {start} to {number(fall.after)} at step "
        f"{stop} and does not recover: {count(skipped)} updates were skipped on the way{_reading(fall)}",
        phase=Phase.BACKWARD,
        evidence={"from": fall.before, "to": fall.after, "last_step": stop, "skipped": skipped},
    )


def _reading(fall: _Fall) -> str:
    if fall.after < TINY:
        return "; with such a scale every gradient is lost, whatever the model does"
    if fall.after < 1:
        return "; below 1 the scale makes gradients smaller, so it is not what makes them overflow"
    return ""


def _last_growth(scale: Scale) -> int:
    """Index of the change after which the scale only fell."""
    grown = np.flatnonzero(np.diff(scale.values) > 0)
    return int(grown[-1]) + 1 if grown.size else 0


def _below_one(scale: Scale, since: int) -> _Fall | None:
    """The fall from 1 or more to less than 1; not the swing of a scale whose level is about there."""
    before, after = float(scale.values[since]), float(scale.values[-1])
    if before < 1 or after >= 1 or before < SWING * after:
        return None
    return _fall(scale, since)


def _steep(scale: Scale, since: int) -> _Fall | None:
    """The steepest fall, if it is steep."""
    ends = np.arange(since + 1, scale.rows.size)
    if not ends.size:
        return None
    starts = np.maximum(np.searchsorted(scale.rows, scale.rows[ends] - WINDOW, "right") - 1, since)
    factors = np.log2(np.maximum(scale.values[starts], TINY)) - np.log2(np.maximum(scale.values[ends], TINY))
    return _fall(scale, int(starts[factors.argmax()])) if factors.max() >= FALL else None


def _fall(scale: Scale, since: int) -> _Fall:
    """From the step that was skipped first, at the scale of that index, to the end."""
    start = int(scale.rows[since + 1]) - 1
    return _Fall(start, int(scale.rows[-1]), float(scale.values[since]), float(scale.values[-1]))
