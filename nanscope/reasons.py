"""From findings to causes: which entries of the catalogue does the recorded evidence support?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from nanscope.causes import CATALOGUE
from nanscope.evidence.claims import Claim
from nanscope.evidence.facts import Facts, as_list, as_number
from nanscope.evidence.origin import claims, ended_by, is_absurd, origin_of
from nanscope.numbers import number
from nanscope.run import Run, is_missing
from nanscope.values import Cause, Finding, Kind, Phase

CLOSE = 1e6
"""A largest value within this factor of float32's limit (8 in float16) speaks for an overflow by growth."""

LARGE = 1e6
"""Beyond it an activation is no ordinary number."""

GROWING = ("learning-rate-divergence", "activation-explosion", "gradient-explosion")
OVERFLOWS = ("dtype-overflow", "exp-overflow", "gradient-explosion", "inf-minus-inf", "zero-times-inf")
SHOWN = {"NS101", "NS103", "NS104"}
"""Rules by which something non-finite is found in the rows."""

OUTRANKED = ("loss-scale-overflow",)
_KINDS = (*GROWING, "bad-learning-rate", "dtype-overflow", "optimizer-update", "loss-scale-overflow")

_Named = tuple[str, str, tuple[str, ...]]


def causes(run: Run, findings: tuple[Finding, ...]) -> tuple[Cause, ...]:
    """The supported causes, most direct first; empty where the rows support none."""
    by_rule = {finding.rule: finding for finding in reversed(findings)}
    birth = by_rule.get("NS101")
    facts = None if handled(run, findings) else origin_of(run)
    named = list(_of_finite(by_rule) if birth is None else _of_birth(run, birth, by_rule))
    if facts is not None:
        return _ranked(_merged(facts, claims(facts), [Claim(*each) for each in named]))
    excluded = _excluded(birth) if birth else ()
    return _ranked([Claim(name, why, evidence + excluded) for name, why, evidence in [*_again(run), *named]])


def handled(run: Run, findings: tuple[Finding, ...]) -> bool:
    """Whether the program itself made up for what was born: no row of a step shows it.

    A loop that looks at its loss or gradients and leaves the update out never ends that step: the next batch
    takes its place.
    """
    facts = origin_of(run)
    if facts is None or ended_by(facts, run) or {f.rule for f in findings} & SHOWN:
        return False
    return as_number(facts.data.get("noticed")) in run.steps


def _again(run: Run) -> Iterator[_Named]:
    """A step that did not fail when it was executed again."""
    for event in run.events_of("not-reproduced")[:1]:
        differs = tuple(each for each in as_list(event.get("differs")) if isinstance(each, str))
        yield "not-reproducible", "executed again from the same state, the step was finite", differs


def _ranked(found: Sequence[Claim]) -> tuple[Cause, ...]:
    first: dict[str, Claim] = {}
    for claim in found:
        first.setdefault(claim.cause, claim)
    ordered = [claim for claim in first.values() if claim.cause in CATALOGUE]
    return tuple(
        Cause(
            claim.cause,
            rank,
            claim.why,
            claim.evidence,
            CATALOGUE[claim.cause].remedies,
            claim.rewrite or CATALOGUE[claim.cause].rewrite,
        )
        for rank, claim in enumerate(ordered, 1)
    )


def _merged(facts: Facts, proved: Sequence[Claim], rows: Sequence[Claim]) -> list[Claim]:
    """What the operands prove, and what the rows say of how it came to that.

    Numbers that grew until they overflowed are the consequence of what made them grow; an operation that
    broke at an ordinary number is the cause itself.
    """
    growth = [claim for claim in rows if claim.cause in GROWING]
    others = [claim for claim in rows if claim.cause in OUTRANKED or claim.cause not in _KINDS]
    settings = [claim for claim in rows if claim.cause == "bad-learning-rate"]
    if not proved:
        return [*settings, *growth, *rows]
    if proved[0].cause in OVERFLOWS and (growth or settings):
        return [*settings, *growth, *proved]
    if proved[0].cause == "dtype-overflow" and (size := _activation(facts)):
        why = f"the activations had grown to {number(size)} by themselves"
        return [Claim("activation-explosion", why, proved[0].evidence), *proved, *others]
    return [*proved, *settings, *growth, *others]


def _activation(facts: Facts) -> float | None:
    """The size of the activation that had become very large by itself and overflowed in the forward pass."""
    if facts.phase != "forward" or facts.result.text("dtype") == "float16":
        return None
    weights = [o for o in facts.operands if o.text("name") not in ("", "input", "target")]
    large = [o.number("abs_max") for o in facts.operands if not o.text("name")]
    large = [size for size in large if size >= LARGE]
    return max(large) if large and not any(w.number("abs_max") >= LARGE for w in weights) else None


def _of_finite(by_rule: Mapping[str, Finding]) -> Iterator[_Named]:
    """Where nothing non-finite stayed."""
    if (frozen := by_rule.get("NS305")) and frozen.evidence.get("squared"):
        yield "gradient-explosion", frozen.message, ()
    if silenced := by_rule.get("NS206"):
        yield "dtype-overflow", silenced.message, ()
    healed, skips = by_rule.get("NS103"), by_rule.get("NS104")
    told = healed if healed and healed.evidence.get("skipped_update") else None
    if skips and skips.evidence["nonfinite_gradients"] and not by_rule.keys() & {"NS307", "NS402"}:
        told = skips
    if told:
        yield (
            "loss-scale-overflow",
            "gradients overflowed in single steps and the updates were skipped",
            (told.message,),
        )


def _of_birth(run: Run, birth: Finding, by_rule: Mapping[str, Finding]) -> Iterator[_Named]:
    name = birth.evidence["name"]
    if birth.phase is Phase.DATA:
        yield "bad-input", f"{name} was non-finite before the model used it", (birth.message,)
    elif birth.phase is Phase.INIT:
        weight = birth.site is not None and birth.site.kind is Kind.WEIGHT
        parameter = weight or "poisoned_parameters" in birth.evidence
        kind = "bad-parameter" if parameter else "bad-buffer"
        yield kind, f"{name} was non-finite before the first recorded step", (birth.message,)
    else:
        growth = by_rule.get("NS301")
        early = growth if growth and growth.step <= birth.step else None
        yield from _of_training(run, birth, early, by_rule.get("NS308"))


def _of_training(run: Run, birth: Finding, growth: Finding | None, blow: Finding | None) -> Iterator[_Named]:
    lr = _learning_rate(run, birth.step)
    if lr is not None and is_absurd(lr):
        yield (
            "bad-learning-rate",
            f"the learning rate was {lr:g} in step {birth.step}{_since(run, birth.step)}",
            (birth.message,),
        )
    if growth is not None:
        yield _growing(run, growth, birth, lr)
    elif blow is not None and blow.evidence["ordinary"]:
        at = f" at a learning rate of {lr:g}" if lr is not None else ""
        yield "learning-rate-divergence", f"{blow.message}{at}", (*_sharpness(run), birth.message)
    if birth.phase is Phase.BACKWARD and birth.evidence["inf"]:
        why = "outputs and loss were finite in the step, its gradient was not"
        yield "gradient-explosion", why, (birth.message,)
    if birth.phase is Phase.UPDATE and _has_gradients(run, birth.step):
        why = f"the gradients of step {birth.step} were finite, the weights after its update are not"
        yield "optimizer-update", why, (birth.message,)
    if _overflowed(birth, growth):
        yield "dtype-overflow", _overflow(birth), (birth.message,)


def _has_gradients(run: Run, step: int) -> bool:
    """Whether the gradients of a step were measured: somebody may have made them by hand."""
    row, sites = int(run.steps.searchsorted(step)), [s for s in run.sites if s.kind is Kind.GRAD]
    cells = (run.series(site, "l2", row, row + 1) for site in sites)
    return not sites or any(cell.size and not is_missing(cell)[0] for cell in cells)


def _growing(run: Run, growth: Finding, birth: Finding, lr: float | None) -> _Named:
    evidence = growth.evidence
    text = (
        f"norms grow {number(evidence['rate'])} times per step from step {growth.step} on"
        f" (first {growth.site}), until {birth.evidence['name']} overflows at step {birth.step}"
    )
    if evidence["weights_grow"] is not False:
        at = f" at a learning rate of {lr:g}" if lr is not None else ""
        return (
            "learning-rate-divergence",
            f"{text}: the updates {'follow the loss' if (falls := _falls(birth)) else 'overshoot'}{at}",
            (*falls, *_sharpness(run), growth.message, birth.message),
        )
    if "output" in evidence["kinds"]:
        return "activation-explosion", f"{text}, while the weights stay in their band", (growth.message,)
    return "gradient-explosion", f"{text}, while outputs and weights stay in their band", (growth.message,)


def _falls(birth: Finding) -> tuple[str, ...]:
    """Whether the loss went down without a bound while norms grew: that is what the updates are for."""
    loss = birth.evidence.get("loss_before")
    if loss is None or not loss < -CLOSE:
        return ()
    return (f"the loss fell to {number(loss)} meanwhile: it has no lower bound, its sign may be wrong",)


def _sharpness(run: Run) -> Iterator[str]:
    """Whether the curvature of the loss proves that the learning rate was too large."""
    for event in run.events_of("sharpness")[:1]:
        sharp, limit, lr = (as_number(event.get(key)) for key in ("sharpness", "threshold", "lr"))
        if not math.isfinite(sharp * limit * lr):
            return
        where = f"the sharpness of the loss on the batch of step {event['step']}"
        text = f"{where} was {number(sharp)}; at lr {lr:g}"
        if sharp > limit:
            yield f"{text} anything above {number(limit)} overshoots: this is the proof"
        else:
            yield f"{text} the limit is {number(limit)}: at that step this was not too large yet"


def _since(run: Run, step: int) -> str:
    """Since when a rate has been below zero; empty if it is not."""
    rates = run.scalar("lr", 0, int(run.steps.searchsorted(step)) + 1)
    if not rates[-1] < 0:
        return ""
    before = np.flatnonzero(~(rates < 0))
    first = int(run.steps[before[-1] + 1 if before.size else 0])
    return f", below zero since step {first}: such updates climb"


def _learning_rate(run: Run, step: int) -> float | None:
    """As recorded at the step, whatever it was."""
    if not run.has(None, "lr"):
        return None
    row = int(run.steps.searchsorted(step))
    value = run.scalar("lr", row, row + 1)
    return None if not value.size or is_missing(value)[0] else float(value[0])


def _overflowed(birth: Finding, growth: Finding | None) -> bool:
    """Infinities alone (no NaN), in values that had come near the limit; steady growth has its own cause."""
    if birth.evidence["nan"] or not birth.evidence["inf"] or birth.phase is Phase.LOSS:
        return False
    before = birth.evidence.get("abs_max_before") or 0.0
    half = birth.evidence.get("dtype") == "float16"
    if growth is not None:
        return half
    return before * (8 if half else CLOSE) >= (65504 if half else 3.4e38)


def _overflow(birth: Finding) -> str:
    before = birth.evidence.get("abs_max_before") or birth.evidence.get("l2_before")
    was = f"; last measured before: {before:.3g}" if before is not None else ""
    dtype = birth.evidence.get("dtype") or "the dtype"
    return f"the first bad elements are infinite and none is NaN: larger than {dtype} can hold{was}"


def _excluded(birth: Finding) -> tuple[str, ...]:
    if not birth.evidence["before_loss"]:
        return ()
    return (f"log(0) in the loss is excluded: {birth.evidence['name']} was non-finite before it was formed",)
