"""Are the predictions argmax of NaN, and so no predictions at all?"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from nanscope.detectors._births import lasting
from nanscope.detectors._rows import sites_of, step_of
from nanscope.run import Floats, Run
from nanscope.values import Finding, Kind, Phase, Severity, Site


def nan_predictions(run: Run) -> Iterable[Finding]:
    """NS201: from a step on to the end, every row of logits holds NaN."""
    episode = lasting(run)
    if episode is None or not (run.has(None, "predicted_nan") and run.has(None, "samples")):
        return
    samples = run.scalar("samples", episode.start)
    nan = run.scalar("predicted_nan", episode.start)
    # Rows where nothing was predicted (no forward, or not measured) say neither yes nor no.
    asked = np.flatnonzero(np.isfinite(nan) & (samples > 0))
    other = np.flatnonzero(nan[asked] < samples[asked])
    asked = asked[other[-1] + 1 :] if other.size else asked
    if not asked.size:
        return
    start = episode.start + int(asked[0])
    rows = int(samples[asked].sum())
    whole = _all_nan_since(run, episode.start + asked, samples[asked])
    yield Finding(
        "NS201",
        "argmax-of-nan",
        Severity.ERROR,
        step_of(run, start),
        f"since step {step_of(run, start)} the logits of all {rows} samples hold NaN"
        + _reading(run, start, whole),
        _logits(run),
        Phase.FORWARD,
        {"samples": rows, "predicted_nan": rows, "all_logits_nan": whole is not None},
    )


def _reading(run: Run, start: int, whole: int | None) -> str:
    if whole is None:
        return ": argmax returns the index of the first NaN, so the class is no preference of the model"
    since = f" (and nothing but NaN since step {step_of(run, whole)})" if whole > start else ""
    return f"{since}: argmax of an all-NaN row is index 0, so class 0 is no preference of the model"


def _all_nan_since(run: Run, rows: NDArray[np.int64], samples: Floats) -> int | None:
    """First of the rows from which on all logits are NaN; None if they are not at the end."""
    site, classes = _logits(run), len(class_names(run))
    if site is None or not classes or not run.has(site, "nan_count"):
        return None
    counts = run.series(site, "nan_count", int(rows[0]))[rows - rows[0]]
    mixed = np.flatnonzero(counts != samples * classes)
    first = int(mixed[-1]) + 1 if mixed.size else 0
    return int(rows[first]) if first < rows.size else None


def class_names(run: Run) -> tuple[str, ...]:
    """Names of the scalars that count predictions, by class number."""
    names = (n for n in run.scalars if n.startswith("predicted_") and n.removeprefix("predicted_").isdigit())
    return tuple(sorted(names, key=lambda name: int(name.removeprefix("predicted_"))))


def _logits(run: Run) -> Site | None:
    """The root's output, or the output that is executed last."""
    outputs = sites_of(run, Kind.OUTPUT)
    return next((site for site in outputs if site.name == ""), outputs[-1] if outputs else None)
