"""Does the gradient die out on its way to the first layers, so that they do not learn?"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from nanscope.detectors._births import lasting
from nanscope.detectors._rows import measured, sites_of, step_of
from nanscope.run import Run
from nanscope.values import Finding, Kind, Phase, Severity, Site

WINDOW = 1000
LEAST = 50
RATIO = 1e-5
LEARNT = 0.9


def vanishing_gradient(run: Run) -> Iterable[Finding]:
    """NS304: the first layer's gradient is typically below 1e-5 of the last one's; the loss stays."""
    sites = sites_of(run, Kind.GRAD)
    if (
        lasting(run) is not None
        or len(run) < LEAST
        or len({site.order for site in sites}) < 2
        or _learns(run)
    ):
        return
    start = max(0, len(run) - WINDOW)
    typical = {site: _median(run, site, start) for site in sites}
    ends = [[s for s in sites if s.order == order] for order in (sites[0].order, sites[-1].order)]
    (first, low), (last, high) = (
        max(((s, typical[s]) for s in end), key=lambda pair: pair[1]) for end in ends
    )
    # A gradient of exactly zero is cut off (a dead layer), it did not die out.
    if not 0 < low < RATIO * high:
        return
    yield Finding(
        "NS304",
        "vanishing-gradient",
        Severity.WARNING,
        step_of(run, start),
        f"the gradient of {first.name} is {low:.1e} where that of {last.name} is {high:.1e} "
        f"(medians over {len(run) - start} steps), and the loss does not fall",
        first,
        Phase.BACKWARD,
        {"first": low, "last": high, "ratio": low / high, "window": len(run) - start},
    )


def _median(run: Run, site: Site, start: int) -> float:
    values = measured(run, site, "l2", start, len(run))[1]
    return float(np.median(values)) if values.size else 0.0


def _learns(run: Run) -> bool:
    """Whether the mean loss of the last part is clearly below that of the first."""
    if not run.has(None, "loss"):
        return False
    part = max(1, min(WINDOW, len(run) // 4))
    first, last = (
        measured(run, None, "loss", 0, part)[1],
        measured(run, None, "loss", len(run) - part, len(run))[1],
    )
    return bool(first.size and last.size and last.mean() < LEARNT * first.mean())
