"""Did the loss leave for good, without ever turning non-finite?"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from nanscope.detectors._births import finite_rows
from nanscope.detectors._rows import measured, step_of, value_at
from nanscope.run import Run
from nanscope.values import Finding, Severity

FACTOR = 1e4
"""Times the loss of the untrained model: no schedule of weights, targets or tasks moves a loss so far."""
LEAST = 1e-3
"""A first loss below it says nothing about how large losses are, such as a term that begins at zero."""
ROWS, SHARE = 20, 0.1
"""The last steps, all of which have to be so high: at least so many, and this share of the run."""


def lost_loss(run: Run) -> Iterable[Finding]:
    """NS309: in all of the last steps the loss is 10,000 times what it was when the training began."""
    first, rows = value_at(run, None, "loss", 0), len(run)
    last = max(ROWS, int(SHARE * rows))
    if first is None or not LEAST <= abs(first) < np.inf or finite_rows(run) < rows or rows <= last:
        return
    limit = FACTOR * abs(first)
    _, end = measured(run, None, "loss", rows - last, rows)
    if end.size < last or (np.abs(end) < limit).any():
        return
    at, values = measured(run, None, "loss", 0, rows)
    below = at[np.abs(values) < limit]
    step = step_of(run, int(below[-1]) + 1)
    lowest = float(np.abs(end).min())
    yield Finding(
        "NS309",
        "lost-loss",
        Severity.ERROR,
        step,
        f"the loss was {first:.3g} when the training began, is above {limit:.1e} since step {step} and never "
        f"came back (at least {lowest:.2g} in the last {last} steps), though it stayed finite",
        evidence={"first": first, "lowest": lowest, "rows": last},
    )
