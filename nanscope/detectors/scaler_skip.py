"""Did a gradient scaler skip updates?"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from nanscope.detectors._rows import step_of
from nanscope.detectors._skips import (
    PART,
    Scale,
    gradients_in_words,
    nonfinite_gradients,
    scale_of,
    settled_row,
    skip_mask,
)
from nanscope.numbers import count, number
from nanscope.run import Run
from nanscope.values import Finding, Phase, Severity


def scaler_skip(run: Run) -> Iterable[Finding]:
    """NS104: updates that a gradient scaler skipped, how many and when; harmless unless told otherwise."""
    mask = skip_mask(run, PART)
    rows = np.flatnonzero(mask)
    if not rows.size:
        return
    settled = settled_row(mask)
    early = int((rows < settled).sum())
    scale = scale_of(run)
    bad = nonfinite_gradients(run, mask)
    yield Finding(
        "NS104",
        "scaler-skip",
        Severity.NOTE,
        step_of(run, int(rows[0])),
        f"the gradient scaler skipped the update in {count(rows.size)} of {count(len(run))} steps"
        f"{_when(early, rows.size)}{_scale(scale)}, {gradients_in_words(bad, rows.size)}",
        phase=Phase.BACKWARD,
        evidence={
            "skipped": rows.size,
            "steps": len(run),
            "before_settled": early,
            "last_step": step_of(run, int(rows[-1])),
            "nonfinite_gradients": bad,
        }
        | _scales(scale),
    )


def _when(early: int, skipped: int) -> str:
    if early == skipped:
        return " while its scale had not found its level yet"
    if early:
        return f", {count(early)} of them before its scale had found its level"
    return ""


def _scale(scale: Scale | None) -> str:
    if scale is None:
        return ""
    first, low, last = scale.values[0], scale.values.min(), scale.values[-1]
    return f" (scale {number(first)} at first, {number(low)} at the lowest, {number(last)} at the end)"


def _scales(scale: Scale | None) -> dict[str, float]:
    if scale is None:
        return {}
    return {
        "scale_first": float(scale.values[0]),
        "scale_lowest": float(scale.values.min()),
        "scale_last": float(scale.values[-1]),
    }
