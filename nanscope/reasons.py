"""From findings to causes: which entries of the catalogue does the recorded evidence support?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from nanscope.causes import CATALOGUE
from nanscope.numbers import number
from nanscope.run import Run, is_missing
from nanscope.values import Cause, Finding, Kind, Phase

ABSURD_LR = 1e3
CLOSE = 1e6
"""A largest value within this factor of float32's limit (8 in float16) speaks for an overflow by growth."""

_Named = tuple[str, str, tuple[str, ...]]


def causes(run: Run, findings: tuple[Finding, ...]) -> tuple[Cause, ...]:
    """The supported causes, most direct first; empty where the rows support none."""
    by_rule = {finding.rule: finding for finding in reversed(findings)}
    birth = by_rule.get("NS101")
    named = _benign(by_rule) if birth is None else _of_birth(run, birth, by_rule.get("NS301"))
    excluded = _excluded(birth) if birth else ()
    return tuple(
        Cause(name, rank, why, evidence + excluded, CATALOGUE[name].remedies)
        for rank, (name, why, evidence) in enumerate(named, 1)
    )


def _benign(by_rule: Mapping[str, Finding]) -> Iterator[_Named]:
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


def _of_birth(run: Run, birth: Finding, growth: Finding | None) -> Iterator[_Named]:
    name = birth.evidence["name"]
    if birth.phase is Phase.DATA:
        yield "bad-input", f"{name} was non-finite before the model used it", (birth.message,)
    elif birth.phase is Phase.INIT:
        weight = birth.site is not None and birth.site.kind is Kind.WEIGHT
        parameter = weight or "poisoned_parameters" in birth.evidence
        kind = "bad-parameter" if parameter else "bad-buffer"
        yield kind, f"{name} was non-finite before the first recorded step", (birth.message,)
    else:
        yield from _of_training(run, birth, growth if growth and growth.step <= birth.step else None)


def _of_training(run: Run, birth: Finding, growth: Finding | None) -> Iterator[_Named]:
    lr = _learning_rate(run, birth.step)
    if lr is not None and not (math.isfinite(lr) and abs(lr) <= ABSURD_LR):
        yield "bad-learning-rate", f"the learning rate was {lr:g} in step {birth.step}", (birth.message,)
    if growth is not None:
        yield _growing(growth, birth, lr)
    if birth.phase is Phase.BACKWARD and birth.evidence["inf"]:
        why = "outputs and loss were finite in the step, its gradient was not"
        yield "gradient-explosion", why, (birth.message,)
    if birth.phase is Phase.UPDATE:
        why = f"the gradients of step {birth.step} were finite, the weights after its update are not"
        yield "optimizer-update", why, (birth.message,)
    if _overflowed(birth, growth):
        yield "dtype-overflow", _overflow(birth), (birth.message,)


def _growing(growth: Finding, birth: Finding, lr: float | None) -> _Named:
    evidence = growth.evidence
    text = (
        f"norms grow {number(evidence['rate'])} times per step from step {growth.step} on"
        f" (first {growth.site}), until {birth.evidence['name']} overflows at step {birth.step}"
    )
    if evidence["weights_grow"] is not False:
        at = f" at a learning rate of {lr:g}" if lr is not None else ""
        return (
            "learning-rate-divergence",
            f"{text}: the updates overshoot{at}",
            (growth.message, birth.message),
        )
    if "output" in evidence["kinds"]:
        return "activation-explosion", f"{text}, while the weights stay in their band", (growth.message,)
    return "gradient-explosion", f"{text}, while outputs and weights stay in their band", (growth.message,)


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
