"""From what was seen to a failure: the run file is diagnosed, the policy has the last word."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nanscope.diagnosis import diagnose
from nanscope.plugin.policy import Policy
from nanscope.plugin.sighting import Sighting
from nanscope.run import Run, is_missing
from nanscope.store.reader import open_run
from nanscope.values import Cause, Diagnosis, Kind, Location, Origin, Phase, Verdict


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a test fails.

    Attributes:
        name: class of the model.
        headline: one sentence.
        origin: None where nothing was born, as in a collapse.
        cause: the most likely one, None if none fits.
        path: the run file that is kept.
    """

    name: str
    headline: str
    kinds: frozenset[str]
    step: int
    phase: str
    origin: Origin | None = None
    cause: Cause | None = None
    location: Location | None = None
    path: Path | None = None


def failure_of(sighting: Sighting, policy: Policy) -> Failure | None:
    """What was seen, as a failure; None where the policy lets it pass."""
    failure = _without_file(sighting) if sighting.path is None else _from_file(sighting, sighting.path)
    if not failure.kinds - policy.allow or not policy.takes_phase(failure.phase):
        return None
    module = failure.origin.module if failure.origin is not None else ""
    return failure if policy.takes_module(module) else None


def collapse_of(path: Path) -> Failure | None:
    """The failure of a run that collapsed to one class; None if it did not."""
    diagnosis = diagnose(path)
    if diagnosis.verdict is not Verdict.COLLAPSED:
        return None
    step = next((finding.step for finding in diagnosis.findings if finding.rule.startswith("NS2")), 0)
    cause = next(iter(diagnosis.causes), None)
    return Failure("", diagnosis.summary, frozenset(), step, Phase.FORWARD, cause=cause, path=path)


def _without_file(sighting: Sighting) -> Failure:
    return Failure(
        sighting.name,
        sighting.told or "something was not finite",
        sighting.kinds or frozenset({"nan"}),
        sighting.step,
        sighting.phase,
        location=sighting.location,
    )


def _from_file(sighting: Sighting, path: Path) -> Failure:
    run = open_run(path)
    diagnosis = diagnose(run)
    origin, cause = diagnosis.origin, next(iter(diagnosis.causes), None)
    kinds = _kinds(run, origin) or frozenset({"nan"})
    if origin is None:
        phase = Phase.UPDATE if sighting.told else Phase.LOSS
        healthy = f"a loss or a gradient was not finite, which no optimizer took; {_why(run)}"
        headline = sighting.told or (diagnosis.summary if _is_told(diagnosis) else healthy)
        return Failure(sighting.name, headline, kinds, sighting.step, phase, cause=cause, path=path)
    headline = _born(origin, kinds)
    return Failure(
        sighting.name, headline, kinds, origin.step, origin.phase, origin, cause, origin.location, path
    )


def _is_told(diagnosis: Diagnosis) -> bool:
    """Whether the diagnosis knows of it: it judges whole steps, and one may have been begun anew."""
    return diagnosis.verdict is not Verdict.HEALTHY


def _why(run: Run) -> str:
    """Why no operation is named."""
    whys = [str(event.get("why")) for event in run.events_of("no-rewind")]
    return f"the step could not be executed again ({whys[0]})" if whys else "it was not seen again"


def _born(origin: Origin, kinds: frozenset[str]) -> str:
    """The first sentence: which operation, what it gave, where it stands in the model."""
    gave = " and ".join(_given(origin) or sorted(kinds))
    module = f" in module `{origin.module}`" if origin.module else ""
    when = f"step {origin.step}, {origin.phase}"
    if origin.phase is Phase.DATA:
        return f"the batch already held {gave} ({when})"
    if origin.phase is Phase.INIT:
        return f"a {origin.op} of the model{module} held {gave} before it was used ({when})"
    if origin.op is None:
        return f"{gave}{module} ({when})"
    gradient = "the gradient of " if origin.phase is Phase.BACKWARD else ""
    return f"{gradient}`{origin.op}`{module} gave {gave} ({when})"


def _given(origin: Origin) -> list[str]:
    result = origin.result
    if result is None:
        return []
    counts = {"nan": result.nan, "inf": result.posinf, "-inf": result.neginf}
    return [kind for kind, many in counts.items() if many]


def _kinds(run: Run, origin: Origin | None) -> frozenset[str]:
    """Of `nan` and `inf`, what the origin gave, or reached the loss, a gradient or a weight."""
    found = {kind.removeprefix("-") for kind in (_given(origin) if origin else [])}
    for event in run.events_of("optimizer-state"):
        found |= {kind for kind in ("nan", "inf") if kind in str(event.get("told")).split(" in ")[0]}
    columns = [run.scalar("loss")] if run.has(None, "loss") and len(run) else []
    harmful = [s for s in run.sites if s.kind in (Kind.GRAD, Kind.WEIGHT) and len(run)]
    columns += [run.series(site) for site in harmful if run.has(site, "l2")]
    for column in columns:
        found |= {"nan"} if bool((np.isnan(column) & ~is_missing(column)).any()) else set()
        found |= {"inf"} if bool(np.isinf(column).any()) else set()
    return frozenset(found)
