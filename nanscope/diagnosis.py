"""From findings to an answer: what happened, where and when, why, what to try, what is not known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from nanscope.causes import COLLAPSE_REMEDIES, REMEDIES
from nanscope.detectors import detect
from nanscope.evidence.facts import as_list
from nanscope.evidence.origin import as_origin, ended_by, origin_of
from nanscope.kept import hidden_nonfinite, kept_rows
from nanscope.reasons import causes, handled
from nanscope.run import Run
from nanscope.standing import standing_of
from nanscope.trail import elements, trail
from nanscope.unknowns import unknowns
from nanscope.values import Cause, Diagnosis, Finding, Origin, Phase, Remedy, Severity, Verdict

FEW = 32
"""From this batch size on a larger batch is no longer suggested."""


def diagnose(run: Run | str | Path) -> Diagnosis:
    """The answer for one run, from its run file or from memory.

    Raises:
        RunFileError: the file is not a readable run file.
    """
    if not isinstance(run, Run):
        # h5py is loaded only by those who read a file.
        from nanscope.store.reader import open_run  # noqa: PLC0415

        run = open_run(run)
    unseen = hidden_nonfinite(run)
    run = kept_rows(run)
    findings = detect(run)
    found = causes(run, findings)
    verdict = _verdict(run, findings)
    if unseen and verdict is Verdict.HEALTHY:
        verdict = Verdict.SUSPICIOUS
    return Diagnosis(
        verdict,
        _summary(run, verdict, findings, found),
        _origin(run, findings),
        found,
        findings,
        _remedies(run, findings, found),
        trail(run, findings),
        (*_no_cause(verdict, found), *_unseen(unseen), *unknowns(run, findings)),
    )


def _unseen(count: int) -> tuple[str, ...]:
    if not count:
        return ()
    return (f"when exactly norms were non-finite ({count:,} times): those steps are kept as summaries only",)


def _no_cause(verdict: Verdict, found: tuple[Cause, ...]) -> tuple[str, ...]:
    if verdict is not Verdict.DIVERGED or found:
        return ()
    return ("the cause: nothing that was recorded fits a known one",)


def _verdict(run: Run, findings: tuple[Finding, ...]) -> Verdict:
    if _named(findings, "NS101") or ended_by(origin_of(run), run):
        return Verdict.DIVERGED
    if _collapse(findings):
        return Verdict.COLLAPSED
    if (
        not len(run)
        or run.events_of("error")
        or handled(run, findings)
        or any(finding.severity >= Severity.WARNING for finding in findings)
    ):
        return Verdict.SUSPICIOUS
    return Verdict.HEALTHY


def _named(findings: tuple[Finding, ...], rule: str) -> Finding | None:
    return next((finding for finding in findings if finding.rule == rule), None)


def _collapse(findings: tuple[Finding, ...]) -> Finding | None:
    return next((finding for finding in findings if finding.rule in COLLAPSE_REMEDIES), None)


def _origin(run: Run, findings: tuple[Finding, ...]) -> Origin | None:
    birth = _named(findings, "NS101")
    facts = origin_of(run)
    watched = None if facts is None else as_origin(facts, birth.site if birth else None)
    if watched is not None:
        return watched
    if birth is None or birth.phase is None:
        return None
    named = birth.evidence["name"].rpartition(".")[0] if birth.phase is Phase.INIT else ""
    return Origin(birth.step, birth.phase, birth.site.module if birth.site else named, birth.site)


def _summary(run: Run, verdict: Verdict, findings: tuple[Finding, ...], found: tuple[Cause, ...]) -> str:
    if not len(run):
        return "no step was recorded, so nothing can be said of the training"
    if verdict is Verdict.DIVERGED:
        return _diverged(run, findings, found)
    if verdict is Verdict.COLLAPSED:
        collapse = _collapse(findings)
        assert collapse is not None
        return f"the training collapsed: {collapse.message}"
    if verdict is Verdict.SUSPICIOUS:
        origin = _origin(run, findings) if handled(run, findings) else None
        worst = [finding for finding in findings if finding.severity >= Severity.WARNING]
        return _suspicious(run, worst, origin)
    so_far = standing_of(verdict, run.state).so_far
    return f"nothing wrong was found in {len(run)} recorded steps{f', {so_far}' if so_far else ''}"


def _suspicious(run: Run, worst: list[Finding], handled_origin: Origin | None) -> str:
    if worst:
        more = f"; {len(worst) - 1} more" if len(worst) > 1 else ""
        first = max(worst, key=lambda finding: finding.severity)
        if first.rule == "NS309":
            return f"the training came to nothing: {first.message}{more}"
        if first.severity is Severity.ERROR:
            return f"nothing diverged, but {first.message}{more}"
        return f"nothing broke for good, but look at this: {first.message}{more}"
    if run.events_of("error"):
        return f"nothing was found in {len(run)} steps, but the training raised {_raised(run)}"
    if handled_origin is not None:
        return f"{_born(handled_origin)}, and the program left out the update of step {handled_origin.step}"
    return f"nothing was found in {len(run)} steps, but norms were non-finite in steps between them"


def _raised(run: Run) -> str:
    return str(run.events_of("error")[-1]["message"])


def _diverged(run: Run, findings: tuple[Finding, ...], found: tuple[Cause, ...]) -> str:
    birth, argmax = _named(findings, "NS101"), _named(findings, "NS201")
    origin = _origin(run, findings)
    if origin is not None and origin.op is not None:
        text = f"{_born(origin)}."
    else:
        assert birth is not None
        text = f"{birth.evidence['name']} holds the first non-finite value{elements(birth.evidence)}."
    if found:
        text += f" Most likely cause: {found[0].id}."
    if argmax and argmax.evidence["all_logits_nan"]:
        text += (
            f" From step {argmax.step} on every prediction is class 0 because the argmax of an all-NaN row is"
            " index 0, not because the model prefers class 0."
        )
    return text


def _born(origin: Origin) -> str:
    """The operation and its place in the user's code."""
    place = f" at {origin.location}" if origin.location else ""
    module = f" of {origin.module}" if origin.module else ""
    if origin.phase is Phase.DATA and origin.op == "input":
        return f"the batch of step {origin.step} already held a non-finite value"
    if origin.phase is Phase.INIT:
        return f"a {origin.op} was non-finite before step {origin.step}"
    how = "the gradient of `" if origin.phase is Phase.BACKWARD else "`"
    return f"{how}{origin.op}`{module}{place} gave the first harmful non-finite value"


def _remedies(run: Run, findings: tuple[Finding, ...], found: tuple[Cause, ...]) -> tuple[Remedy, ...]:
    ids = [name for cause in found for name in cause.remedies]
    collapse = _collapse(findings)
    if collapse and not found:
        ids = list(COLLAPSE_REMEDIES[collapse.rule])
    known = run.header.config
    standardised, batch = bool(known.get("standardised")), known.get("batch_size")
    pointless = {"standardise-inputs"} if standardised else set()
    if isinstance(batch, int) and batch >= FEW:
        pointless.add("larger-batch")
    if not any(site.dtype == "float16" for site in run.sites):
        pointless.add("loss-scaling")
    tried = _tried(run)
    untried = [name for name in dict.fromkeys(ids) if name not in pointless | {each.id for each in tried}]
    helped = [each for each in tried if each.outcome == "prevented"]
    rest = [each for each in tried if each not in helped]
    return (*helped, *(Remedy(name, REMEDIES[name] + _figures(run, name)) for name in untried), *rest)


def _tried(run: Run) -> list[Remedy]:
    """What was tried on the steps themselves."""
    found = []
    for event in run.events_of("remedies")[:1]:
        for each in (made for made in as_list(event.get("tried")) if isinstance(made, Mapping)):
            name, change, outcome = (str(each.get(key)) for key in ("id", "change", "outcome"))
            steps = each.get("steps")
            if name in REMEDIES and outcome in ("prevented", "not-prevented"):
                found.append(Remedy(name, change, outcome, steps if isinstance(steps, int) else None))
    return found


def _figures(run: Run, name: str) -> str:
    """The run's own numbers for a remedy."""
    lr, batch = run.header.config.get("lr"), run.header.config.get("batch_size")
    if lr is None and run.has(None, "lr") and len(run):
        lr = float(run.scalar("lr", 0, 1)[0])
    if name == "lower-learning-rate" and isinstance(lr, int | float) and 0 < lr < float("inf"):
        return f" (it was {lr:.3g}; {lr / 10:.2g} is a first try)"
    if name == "larger-batch" and isinstance(batch, int):
        return f" (it was {batch})"
    return ""
