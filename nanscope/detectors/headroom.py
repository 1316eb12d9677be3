"""How close do the values come to the largest number of their dtype?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from nanscope.detectors._births import finite_rows
from nanscope.detectors._rows import BUCKET, measured, sites_of, step_of
from nanscope.run import Run
from nanscope.values import Finding, Kind, Severity, Site

LIMITS: Mapping[str, float] = {
    "float16": 65504.0,
    "bfloat16": 3.3895313892515355e38,
    "float32": 3.4028234663852886e38,
}
"""Largest finite number (IEEE 754 binary16 and binary32; bfloat16 has binary32's exponent and 8 bits)."""
NEAR: Mapping[str, float] = {"float16": 8.0, "bfloat16": 1e6, "float32": 1e6}
"""Factor to the limit from which it is near: large activations are ordinary in float16, not in the others."""


def headroom(run: Run) -> Iterable[Finding]:
    """NS306: the site whose largest value came closest to its dtype's limit, if that is near."""
    sites = sites_of(run, *Kind, stat="abs_max")
    stop = finite_rows(run) if sites else 0
    reached = [hit for site in sites if (hit := _closest(run, site, stop)) is not None]
    if not reached:
        return
    room, row, site, value = min(reached, key=lambda hit: hit[0])
    yield Finding(
        "NS306",
        "headroom",
        Severity.WARNING,
        step_of(run, row),
        f"{site} reaches {value:.3g} at step {step_of(run, row)}: a factor of {room:.3g} below the largest "
        f"{site.dtype} ({LIMITS[site.dtype]:.3g}); {len(reached)} sites come near it",
        site,
        None,
        {
            "abs_max": value,
            "limit": LIMITS[site.dtype],
            "room": room,
            "dtype": site.dtype,
            "sites": len(reached),
        },
    )


def _closest(run: Run, site: Site, stop: int) -> tuple[float, int, Site, float] | None:
    limit = LIMITS.get(site.dtype)
    if limit is None:
        return None
    threshold = limit / NEAR[site.dtype]
    overview = run.source.overview(run.index(site, "abs_max"), BUCKET)
    near = np.flatnonzero(np.nan_to_num(overview.high, nan=0.0) >= threshold)
    if not near.size:
        return None
    start, last = int(overview.starts[near[0]]), int(overview.starts[near[-1]])
    rows, values = measured(run, site, "abs_max", start, min(stop, last + overview.bucket))
    if not values.size or values.max() < threshold:
        return None
    at = int(values.argmax())
    return limit / float(values[at]), int(rows[at]), site, float(values[at])
