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

SHARE = 0.5
"""Of what is left of a parameter, at least so much was just added to it."""

VISIBLE = 0.5
"""Root mean square of what was added: weights of that size are no ordinary ones."""

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
        if _is_ordinary(run, row, episode.start) and not any(geometric_growth(run)):
            yield _finding(run, site, row, birth_of(run, episode))
        return


def _finding(run: Run, site: Site, row: int, birth: Birth) -> Finding:
    update, norm = _update(run, site, row), value_at(run, site, "l2", row) or 0.0
    return Finding(
        "NS308",
        "overshooting-update",
        Severity.WARNING,
        step_of(run, row),
        f"the update of step {step_of(run, row)} replaced {site}: its norm is {number(update)}, that of the "
        f"sum {number(norm)}; {birth.name} is non-finite in step {birth.step}",
        site,
        Phase.UPDATE,
        {"update": update, "norm": norm, "lr": value_at(run, None, "lr", row)},
    )


def _share(run: Run, site: Site, row: int) -> float:
    """Of the update in the parameter after it; 0 where the update is small in numbers."""
    norm, update = value_at(run, site, "l2", row), _update(run, site, row)
    if not norm or not math.isfinite(norm * update) or update < VISIBLE * math.sqrt(max(1, site.numel)):
        return 0.0
    return update / norm


def _update(run: Run, site: Site, row: int) -> float:
    update = next((s for s in sites_of(run, Kind.UPDATE) if s.name == site.name), None)
    found = None if update is None else value_at(run, update, "l2", row)
    return 0.0 if found is None else found


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
