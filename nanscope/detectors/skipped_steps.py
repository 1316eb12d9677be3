"""Does the training stand still, because every update is skipped?"""

from __future__ import annotations

from collections.abc import Iterable

from nanscope.detectors._rows import step_of, value_at
from nanscope.detectors._skips import (
    LONG,
    PART,
    gradients_in_words,
    is_calibrating,
    nonfinite_gradients,
    skip_mask,
    trailing,
)
from nanscope.numbers import count, number
from nanscope.run import Run
from nanscope.values import Finding, Phase, Severity


def skipped_steps(run: Run) -> Iterable[Finding]:
    """NS402: from a step on to the end every update was skipped: the weights do not change any more.

    Nothing else shows it: no error is raised, and the loss of a model that stands still looks like a plateau
    (deepspeedai/DeepSpeed#8415).
    """
    mask = skip_mask(run, PART)
    skipped = trailing(mask)
    if skipped < LONG or is_calibrating(run, mask):
        return
    row = len(run) - skipped
    made = int(row - mask[:row].sum())
    whole = bool(skip_mask(run)[row:].all())
    mask[:row] = False
    bad = nonfinite_gradients(run, mask)
    scale = value_at(run, None, "loss_scale", len(run) - 1)
    at_scale = f" (the last at a scale of {number(scale)})" if scale is not None else ""
    yield Finding(
        "NS402",
        "skipped-steps",
        Severity.ERROR if whole else Severity.WARNING,
        step_of(run, row),
        f"{_what(step_of(run, row), skipped, whole=whole)}{at_scale}, {gradients_in_words(bad, skipped)}",
        phase=Phase.UPDATE,
        evidence={
            "skipped": skipped,
            "nonfinite_gradients": bad,
            "scale": scale,
            "updates_made": made,
        },
    )


def _what(step: int, skipped: int, *, whole: bool) -> str:
    if whole:
        return f"the training stands still since step {step}: all {count(skipped)} updates since were skipped"
    return f"one optimizer or more was skipped in each of the {count(skipped)} steps since step {step}"
