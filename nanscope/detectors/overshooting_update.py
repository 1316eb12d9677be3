"""Which update left little of a parameter but itself, shortly before the trouble?

A divergence within two or three steps is too short for a rate of growth to be told. What began it shows all
the same: an update as large as the parameter that it was added to, at inputs and a loss as before.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from nanscope.detectors._births import Birth, birth_of, lasting
from nanscope.detectors._rows import measured, sites_of, step_of, value_at
from nanscope.detectors.geometric_growth import geometric_growth
from nanscope.numbers import number
from nanscope.run import Run
from nanscope.values import Finding, Kind, Phase, Severity, Site

REACH = 3
"""Steps before the trouble."""

SHARE = 0.9
"""Of what is left of a parameter, at least so much was just added to it."""

VISIBLE = 0.5
"""Root mean square of what was added: weights of that size are no ordinary ones."""

FAR = 100.0
"""Times the learning rate and the gradient, or 1 per element: no optimizer adds more than that."""

WORSE = 100.0
"""By so much the loss grows, if it stays finite, when a step was too long."""

STEADY = 10.0
"""Inputs whose norms differ by no more than this factor are alike; so are losses within its square."""


def overshooting_update(run: Run) -> Iterable[Finding]:
    """NS308: an update that replaced a parameter, where growth over more steps does not tell as much."""
    episode = lasting(run)
    if episode is None:
        return
    for row in range(max(0, episode.start - REACH), episode.start):
        site = max(sites_of(run, Kind.WEIGHT), key=lambda each: _share(run, each, row), default=None)
        if site is None or _share(run, site, row) < SHARE:
            continue
        if _is_worse(run, row) and not any(geometric_growth(run)):
            odd = (
                ""
                if _is_ordinary(run, row, episode.start)
                else ", and the data of these steps was out of line"
            )
            yield _finding(run, site, row, birth_of(run, episode), odd)
        return


def _finding(run: Run, site: Site, row: int, birth: Birth, odd: str) -> Finding:
    update, norm = _beside(run, site, Kind.UPDATE, row), value_at(run, site, "l2", row) or 0.0
    return Finding(
        "NS308",
        "overshooting-update",
        Severity.WARNING,
        step_of(run, row),
        f"the update of step {step_of(run, row)} replaced {site}: its norm is {number(update)}, that of the "
        f"sum {number(norm)}; {birth.name} is non-finite in step {birth.step}{odd}",
        site,
        Phase.UPDATE,
        {"update": update, "norm": norm, "lr": value_at(run, None, "lr", row), "ordinary": not odd},
    )


def _share(run: Run, site: Site, row: int) -> float:
    """Of the update in the parameter after it; 0 where the update is small in numbers."""
    norm, update = value_at(run, site, "l2", row), _beside(run, site, Kind.UPDATE, row)
    width = math.sqrt(max(1, site.numel))
    if not norm or not math.isfinite(norm * update) or update < VISIBLE * width:
        return 0.0
    lr, grad = value_at(run, None, "lr", row), _beside(run, site, Kind.GRAD, row)
    if lr is not None and update > FAR * abs(lr) * max(grad, width):
        return 0.0  # somebody else has written into it
    return update / norm


def _beside(run: Run, weight: Site, kind: Kind, row: int) -> float:
    """Norm of the update, or of the gradient, of a parameter; 0 where it is not known."""
    site = next((each for each in sites_of(run, kind) if each.name == weight.name), None)
    found = None if site is None else value_at(run, site, "l2", row)
    return 0.0 if found is None else found


def _is_worse(run: Run, row: int) -> bool:
    """Whether the loss after the update is far larger, or not finite."""
    before, after = (value_at(run, None, "loss", at) for at in (row, row + 1))
    return before is None or after is None or not abs(after) <= WORSE * abs(before)


def _is_ordinary(run: Run, row: int, bad: int) -> bool:
    """Whether the inputs up to the bad row are like those before, and the loss before the update, too."""
    start = max(0, row - 2 * REACH)
    for site in sites_of(run, Kind.INPUT):
        norms = measured(run, site, "l2", start, bad + 1)[1]
        if norms.size and norms.max() > STEADY * norms.min():
            return False
    before = measured(run, None, "loss", start, row)[1] if run.has(None, "loss") else np.zeros(0)
    loss = value_at(run, None, "loss", row)
    return not before.size or loss is None or abs(loss) <= STEADY**2 * float(np.median(np.abs(before)))
