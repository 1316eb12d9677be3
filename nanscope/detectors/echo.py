"""Since when are the weights poisoned, so that everything non-finite after it is an echo?"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from nanscope.detectors._births import birth_of, lasting
from nanscope.detectors._rows import sites_of, step_of
from nanscope.run import Run, is_missing, is_nonfinite
from nanscope.values import Finding, Kind, Phase, Severity, Site

REACH = 1000
"""Rows after the birth in which the poisoned weights must show; they are measured every step near trouble."""


def echo(run: Run) -> Iterable[Finding]:
    """NS102: from this step on the weights are non-finite; later findings are no news."""
    episode = lasting(run)
    if episode is None:
        return
    weights = sites_of(run, Kind.WEIGHT)
    first = {site: row for site in weights if (row := _first_bad(run, site, episode.start)) is not None}
    birth = birth_of(run, episode)
    if birth.poisoned:
        since, bad = birth.row, max(len(birth.poisoned), len(first))
    elif first:
        since, bad = min(first.values()), len(first)
    else:
        return
    sites, dead = _final(run, episode.start)
    yield Finding(
        "NS102",
        "echo",
        Severity.NOTE,
        step_of(run, since),
        f"{bad} of {max(bad, len(weights))} parameters are non-finite after step {step_of(run, since)}: "
        f"every later NaN or inf is an echo ({dead} of {sites} measured sites at the end)",
        next(iter(first), None),
        Phase.UPDATE,
        {"parameters": len(weights), "poisoned": bad, "sites": sites, "nonfinite_sites": dead},
    )


def _first_bad(run: Run, site: Site, start: int) -> int | None:
    at = np.flatnonzero(is_nonfinite(run.series(site, "l2", start, min(len(run), start + REACH))))
    return start + int(at[0]) if at.size else None


def _final(run: Run, start: int) -> tuple[int, int]:
    """Measured sites, and how many of them were non-finite at their last measurement."""
    last = [_last_state(run, site, start) for site in sites_of(run, *Kind)]
    known = [state for state in last if state is not None]
    return len(known), sum(known)


def _last_state(run: Run, site: Site, start: int) -> bool | None:
    values = run.series(site, "l2", max(start, len(run) - REACH))
    values = values[~is_missing(values)]
    return bool(~np.isfinite(values[-1])) if values.size else None
