"""Where was the first non-finite value born, of those that the run never recovered from?"""

from __future__ import annotations

from collections.abc import Iterable

from nanscope.detectors._births import Birth, birth_of, lasting
from nanscope.detectors._rows import last_value
from nanscope.run import Run
from nanscope.values import Finding, Kind, Phase, Severity


def first_nonfinite(run: Run) -> Iterable[Finding]:
    """NS101: step, phase and site of the first NaN or inf of the episode that stayed."""
    episode = lasting(run)
    if episode is None:
        return
    birth = birth_of(run, episode)
    yield Finding(
        "NS101",
        "first-nonfinite",
        Severity.ERROR,
        birth.step,
        f"the first non-finite value is in {birth.name}, {_when(birth)}{counts(birth)}",
        birth.site,
        birth.phase,
        _evidence(run, birth),
    )


def counts(birth: Birth) -> str:
    """NaN and inf told apart, as the end of a sentence; empty where they were not counted."""
    if birth.nan is None and birth.inf is None:
        return ""
    return f": {birth.nan or 0} NaN and {birth.inf or 0} infinite elements"


def _when(birth: Birth) -> str:
    if birth.phase is Phase.INIT:
        return f"before the first recorded step ({birth.step})"
    return f"in the {birth.phase} phase of step {birth.step}"


def _evidence(run: Run, birth: Birth) -> dict[str, object]:
    evidence: dict[str, object] = {"name": birth.name, "nan": birth.nan, "inf": birth.inf}
    if birth.site is not None:
        evidence["l2_before"] = last_value(run, birth.site, "l2", birth.row)
        evidence["abs_max_before"] = last_value(run, birth.site, "abs_max", birth.row)
        evidence["dtype"] = birth.site.dtype
    if birth.poisoned:
        evidence["poisoned_parameters"] = len(birth.poisoned)
    evidence["loss_before"] = last_value(run, None, "loss", birth.row)
    evidence["lr"] = last_value(run, None, "lr", birth.row + 1)
    # A forward value that was bad before the loss was computed leaves the loss no part in it.
    evidence["before_loss"] = birth.phase in (Phase.INIT, Phase.DATA) or (
        birth.site is not None
        and birth.site.kind in (Kind.OUTPUT, Kind.WEIGHT)
        and birth.phase in (Phase.FORWARD, Phase.UPDATE)
    )
    return evidence
