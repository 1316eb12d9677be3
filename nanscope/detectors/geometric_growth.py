"""Since when does a norm grow geometrically, and how fast?

A stable training keeps its norms within a band. From some step on a diverging one multiplies them by about
the same factor at each step: log(norm) is flat and noisy first, then a rising line. Both pieces are fitted
by least squares with the break at every possible step, and the best break is taken (a two-phase regression;
Hinkley 1969, "Inference about the intersection in two-phase regression", without the continuity condition).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanscope.detectors._births import finite_rows
from nanscope.detectors._rows import measured, sites_of, step_of
from nanscope.run import Run
from nanscope.values import Finding, Kind, Severity, Site

REACH = 16384
"""Rows before the trouble that are fitted. Growth by 1,000 within them is 0.04 % a step or faster."""
RISE = 1e3
FIT = 0.7
NOISE = 8.0
LEFT_BAND, TINY = 3.0, 1e-30
JUMP = 0.9  # share of the rise
WATCHED = (Kind.WEIGHT, Kind.OUTPUT, Kind.GRAD_OUTPUT, Kind.GRAD)

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Growth:
    """A rising piece of a series: natural log of the norm is a line from `step` on.

    Attributes:
        site: whose norm it is.
        step, last: the first and the last step of the rise.
        before, after: typical norm before it (median), and the last norm.
        rate: factor per step.
        fit: share of the variance within the rise that the line explains (R squared).
    """

    site: Site
    step: int
    last: int
    before: float
    after: float
    rate: float
    fit: float


def geometric_growth(run: Run) -> Iterable[Finding]:
    """NS301: norms that rise 1,000-fold or more along a line in the logarithm, up to the trouble."""
    found = growths(run)
    if not found:
        return
    first = min(found, key=lambda growth: (growth.step, growth.site.order))
    top = max(found, key=lambda growth: growth.after / growth.before)
    yield Finding(
        "NS301",
        "geometric-growth",
        Severity.WARNING,
        first.step,
        f"the norm of {first.site} grows from step {first.step} on, by a factor of {first.rate:.3g} per "
        f"step: "
        f"{first.before:.3g} to {first.after:.3g} at step {first.last}; {len(found)} sites grow",
        first.site,
        None,
        {
            "rate": first.rate,
            "before": first.before,
            "after": first.after,
            "last_step": first.last,
            "fit": first.fit,
            "sites": tuple(str(growth.site) for growth in found),
            "kinds": tuple(sorted({str(growth.site.kind) for growth in found})),
            "largest_site": str(top.site),
            "largest": top.after,
            "weights_grow": _weights_grow(run, first.step),
        },
    )


def growths(run: Run) -> tuple[Growth, ...]:
    """Every site whose norm grows geometrically up to the lasting trouble, or up to the end of the run."""
    stop = finite_rows(run)
    open_end = stop == len(run)
    found = (_growth(run, site, stop, open_end) for site in sites_of(run, *WATCHED))
    return tuple(growth for growth in found if growth is not None)


def _weights_grow(run: Run, step: int) -> bool | None:
    """Whether a weight norm left its band in the rise; None where none was measured on both sides."""
    row, stop = int(run.steps.searchsorted(step)), finite_rows(run)
    ratios = []
    for site in sites_of(run, Kind.WEIGHT):
        rows, norms = measured(run, site, "l2", max(0, stop - REACH), stop)
        # A measurement early in the rise cannot tell yet.
        before, after = norms[rows < row], norms[2 * rows >= row + stop]
        if before.size and after.size:
            ratios.append(float(after.max()) / max(float(np.median(before)), TINY))
    return max(ratios) >= LEFT_BAND if ratios else None


def _growth(run: Run, site: Site, stop: int, open_end: bool) -> Growth | None:
    if not _higher_than_before(run, site, stop):
        return None
    rows, norms = measured(run, site, "l2", max(0, stop - REACH), stop)
    keep = norms > 0
    rows, logs = rows[keep], np.log(norms[keep].astype(np.float64))
    at = break_point(rows.astype(np.float64), logs)
    if at is None:
        return None
    slope, fit = line(rows[at:].astype(np.float64), logs[at:])
    before = float(np.median(logs[:at])) if at else float(logs[0])
    least = max(math.log(RISE), NOISE * _spread(logs[:at]))
    risen = float(np.median(logs[-3:])) if open_end else float(logs[-1])
    if slope <= 0 or fit < FIT or risen - before < least or _is_jump(logs[at:], risen - before):
        return None
    start, end = step_of(run, int(rows[at])), step_of(run, int(rows[-1]))
    return Growth(site, start, end, math.exp(before), math.exp(logs[-1]), math.exp(slope), fit)


def _is_jump(logs: Doubles, rise: float) -> bool:
    """Whether it rose at one step: that is a blow from outside, no growth."""
    return float(np.max(np.diff(logs))) > JUMP * rise


def _higher_than_before(run: Run, site: Site, stop: int) -> bool:
    """A look at the last measurements alone: most sites of most runs end here."""
    norms = measured(run, site, "l2", max(0, stop - REACH), stop)[1]
    positive = norms[norms > 0]
    return positive.size >= 4 and float(np.max(positive[-8:])) >= RISE * float(np.min(positive))


def _spread(logs: Doubles) -> float:
    """Standard deviation as told by the median absolute deviation; 0 below 2 values."""
    return 1.4826 * float(np.median(np.abs(logs - np.median(logs)))) if logs.size > 1 else 0.0


def line(x: Doubles, y: Doubles) -> tuple[float, float]:
    """Slope of the least-squares line, and R squared."""
    dx, dy = x - x.mean(), y - y.mean()
    sxx, syy, sxy = float(dx @ dx), float(dy @ dy), float(dx @ dy)
    return (sxy / sxx, sxy * sxy / (sxx * syy)) if sxx and syy else (0.0, 0.0)


def break_point(x: Doubles, y: Doubles) -> int | None:
    """Index at which a constant followed by a line fits best; None below 4 points.

    The sum of squared residuals is computed for every break at once, from cumulative sums. The rising piece
    holds at least 3 points; index 0 means that there is no flat piece.
    """
    n = y.size
    if n < 4:
        return None
    y0 = y - y.mean()
    x0 = x - x.mean()
    heads = np.arange(n)
    count = np.maximum(heads, 1)
    flat = _before(y0 * y0) - _before(y0) ** 2 / count
    rest = n - heads
    sx, sy, sxx, sxy, syy = (v.sum() - _before(v) for v in (x0, y0, x0 * x0, x0 * y0, y0 * y0))
    cxx, cxy, cyy = sxx - sx * sx / rest, sxy - sx * sy / rest, syy - sy * sy / rest
    explained = np.divide(np.maximum(cxy, 0.0) ** 2, cxx, out=np.zeros(n), where=cxx > 0)
    return int(np.argmin((flat + cyy - explained)[: n - 2]))


def _before(values: Doubles) -> Doubles:
    """Sum of the values before each index."""
    return np.concatenate(([0.0], np.cumsum(values)[:-1]))
