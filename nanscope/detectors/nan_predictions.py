"""Are the predictions argmax of NaN, and so no predictions at all?"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from nanscope.detectors._births import lasting
from nanscope.detectors._rows import sites_of, step_of, value_at
from nanscope.run import Run
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
    whole = _all_nan(run, start, float(samples[asked[0]]))
    yield Finding(
        "NS201",
        "argmax-of-nan",
        Severity.ERROR,
        step_of(run, start),
        f"since step {step_of(run, start)} the logits of all {rows} samples hold NaN: {_reading(whole)}",
        _logits(run),
        Phase.FORWARD,
        {"samples": rows, "predicted_nan": rows, "all_logits_nan": whole},
    )


def _reading(whole: bool) -> str:
    if whole:
        return "argmax of an all-NaN row is index 0, so class 0 is no preference of the model"
    return "argmax returns the index of the first NaN, so the class is no preference of the model"


def _all_nan(run: Run, row: int, samples: float) -> bool:
    """Whether the logits are NaN through and through; False where that was not counted."""
    site = _logits(run)
    classes = len(class_names(run))
    nan = value_at(run, site, "nan_count", row) if site else None
    # The step after the first may be the first that is NaN through and through.
    later = value_at(run, site, "nan_count", len(run) - 1) if site else None
    return bool(classes) and samples * classes in (nan, later)


def class_names(run: Run) -> tuple[str, ...]:
    """Names of the scalars that count predictions, by class number."""
    names = (n for n in run.scalars if n.startswith("predicted_") and n.removeprefix("predicted_").isdigit())
    return tuple(sorted(names, key=lambda name: int(name.removeprefix("predicted_"))))


def _logits(run: Run) -> Site | None:
    """The root's output, or the output that is executed last."""
    outputs = sites_of(run, Kind.OUTPUT)
    return next((site for site in outputs if site.name == ""), outputs[-1] if outputs else None)
