"""Heat: how far every layer is above what was usual for it, over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanscope.replay.cases import Case
from nanscope.replay.columns import Edges, edges_of
from nanscope.replay.stats import STATS, sites_of
from nanscope.values import Site

USUAL = 0.1
"""The first tenth of a run tells what is usual."""
PARTS = 64


@dataclass(frozen=True, slots=True)
class Heat:
    """Arrays of shape (sites, columns).

    Attributes:
        values: decades above the usual, or the value itself of a share; NaN where nothing was measured.
        bad: where something was not finite.
    """

    values: NDArray[np.float64]
    bad: NDArray[np.bool_]


def heat_of(case: Case, sites: Sequence[Site], stat: str, edges: Edges, usual: NDArray[np.float64]) -> Heat:
    """The heat of sites, the largest value of each column against the usual, shape (sites,).

    What is measured now and then holds until it is measured again.
    """
    told = STATS[stat]
    read = [case.reader.columns(site, told.stat, edges) for site in sites]
    shape = (len(sites), len(edges.starts))
    values = np.array([each.high for each in read]).reshape(shape)
    bad = np.array([each.bad > 0 for each in read], np.bool_).reshape(shape)
    if not told.is_share:
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log10(np.maximum(values, 1e-45)) - np.log10(np.maximum(usual, 1e-45))[:, None]
        values = np.where(np.isnan(values), np.nan, logs)
    held = _held(values, bad)
    held[:, edges.stops <= edges.starts] = np.nan  # behind the end, nothing holds
    return Heat(held, bad)


def usual_of(case: Case, stat: str) -> NDArray[np.float64]:
    """Median of the first tenth of a run per site, of the means of 64 parts of it; 1 where there is none."""
    edges = edges_of(0, max(1, round(USUAL * case.rows)), min(PARTS, max(1, round(USUAL * case.rows))))
    found = []
    for site in sites_of(case, stat):
        mean = case.reader.columns(site, STATS[stat].stat, edges).mean
        known = mean[np.isfinite(mean) & (mean > 0)]
        found.append(float(np.median(known)) if known.size else 1.0)
    return np.array(found)


def reference_of(case: Case, baseline: Case, stat: str, reference: str) -> NDArray[np.float64]:
    """What decades are counted from: the case's own begin, the baseline's of the same site, or one."""
    sites = sites_of(case, stat)
    if reference == "raw":
        return np.ones(len(sites))
    if reference == "own" or baseline is case:
        return usual_of(case, stat)
    known = {
        str(site): usual
        for site, usual in zip(sites_of(baseline, stat), usual_of(baseline, stat), strict=True)
    }
    return np.array([known.get(str(site), 1.0) for site in sites])


def _held(values: NDArray[np.float64], bad: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Each row with its gaps filled by what was known last; a NaN that was measured is no gap."""
    known = ~np.isnan(values) | bad
    at = np.maximum.accumulate(np.where(known, np.arange(values.shape[1]), -1), axis=1)
    filled = np.take_along_axis(values, np.maximum(at, 0), axis=1)
    return np.where(at >= 0, filled, np.nan)
