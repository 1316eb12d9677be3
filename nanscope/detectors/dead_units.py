"""Has a layer lost most of its units: zero whatever it is shown?"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from nanscope.detectors._births import finite_rows
from nanscope.detectors._rows import batch_rows, measured, sites_of, step_of
from nanscope.run import Run
from nanscope.values import Finding, Kind, Severity, Site

DEAD = 0.9
REPEATS = 2
"""One window of few samples may miss a rare unit; two in a row say the same of different samples."""


def dead_units(run: Run) -> Iterable[Finding]:
    """NS303: at least 90 % of a layer's units were zero for every sample of the last windows."""
    stop = finite_rows(run)
    for site in sites_of(run, Kind.OUTPUT, stat="dead_fraction"):
        finding = _of(run, site, stop)
        if finding:
            yield finding


def _of(run: Run, site: Site, stop: int) -> Finding | None:
    rows, dead = measured(run, site, "dead_fraction", 0, stop)
    # Near trouble the windows are short; only windows that saw a fair number of samples may speak.
    full = np.diff(rows, prepend=-1) * batch_rows(run) >= 50
    rows, dead = rows[full], dead[full]
    alive = np.flatnonzero(dead < DEAD)
    first = int(alive[-1]) + 1 if alive.size else 0
    if dead.size - first < REPEATS:
        return None
    step = step_of(run, int(rows[first]))
    return Finding(
        "NS303",
        "dead-units",
        Severity.WARNING,
        step,
        f"{dead[-1]:.0%} of the units of {site} are zero for every sample since step {step}",
        site,
        None,
        {"dead_fraction": float(dead[-1]), "first": float(dead[0]), "measurements": int(dead.size - first)},
    )
