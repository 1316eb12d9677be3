"""Does a layer give nothing but zeros because what it computes on the way is infinite?

A square beyond the dtype is infinite, and one over infinity is 0: a norm by hand turns numbers that are
finite, and too large to be squared, into zeros. No value that anybody sees is ever non-finite.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise

from nanscope.detectors._births import finite_rows
from nanscope.detectors._rows import measured, sites_of, step_of
from nanscope.numbers import number
from nanscope.run import Run
from nanscope.values import Finding, Kind, Severity, Site

ROWS = 20
LIMITS = {"float16": 65504.0, "float64": 1.798e308}
OTHERS = 3.39e38  # float32 and bfloat16
CUTTING = ("ReLU", "Dropout", "Threshold", "shrink", "Hardtanh", "Hardsigmoid", "Hardswish", "Identity")
"""What gives zeros for reasons of its own, by the ends of the names of modules."""


def silenced_layer(run: Run) -> Iterable[Finding]:
    """NS206: an output that is always exactly zero, of inputs whose squares are beyond the dtype."""
    stop = finite_rows(run)
    sites = [s for s in run.sites if s.kind is Kind.INPUT and not s.name and run.has(s, "l2")]
    sites += [site for site in sites_of(run, Kind.OUTPUT) if site.name]
    for before, site in pairwise(sites):
        if site.module_type.endswith(CUTTING):
            continue
        rows, norms = measured(run, site, "l2", max(0, stop - ROWS), stop)
        given = measured(run, before, "l2", max(0, stop - ROWS), stop)[1]
        least = math.sqrt(LIMITS.get(site.dtype, OTHERS))
        if norms.size == ROWS == given.size and not norms.any() and given.min() > least:
            yield _finding(run, site, before, int(rows[0]), float(given.min()))
            return


def _finding(run: Run, site: Site, before: Site, row: int, norm: float) -> Finding:
    return Finding(
        "NS206",
        "silenced-layer",
        Severity.WARNING,
        step_of(run, row),
        f"{site} is exactly zero although the norm of {before} is {number(norm)} or more: its square is "
        f"infinite in {site.dtype or 'its dtype'}, and one over it is 0",
        site,
        None,
        {"norm": norm, "dtype": site.dtype, "before": str(before)},
    )
