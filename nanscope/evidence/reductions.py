"""Reductions and normalisations: over nothing, over too little, over what is masked throughout."""

from __future__ import annotations

import math
from collections.abc import Iterator

from nanscope.evidence.claims import Claim
from nanscope.evidence.facts import Facts, Made, of_many, whole
from nanscope.evidence.overflow import overflow
from nanscope.numbers import number

NO_EPS = 1e-30  # adding less to a variance changes nothing


def is_of_nothing(facts: Facts) -> bool:
    """Whether a NaN was made of an operand without elements, or of a row without any."""
    return facts.is_nan and (
        facts.row.number("numel") == 0 or any(o.number("numel") == 0 for o in facts.operands)
    )


def of_nothing(facts: Facts) -> Iterator[Claim]:
    """A mean, loss or deviation of no element."""
    yield Claim("empty-reduction", f"`{facts.op}` over no element at all")


def softmax(facts: Facts) -> Iterator[Claim]:
    """Of a row that is -inf throughout, or that holds +inf."""
    row = facts.row
    masks = [
        o for o in facts.operands if "mask" in o.text("role") and o.number("neginf") + o.number("zeros") > 0
    ]
    all_masked = row.number("numel") > 0 and row.number("neginf") == row.number("numel")
    if all_masked or (masks and facts.is_nan):
        size = (
            f"all {whole(row.number('numel'))} positions of the row are -inf"
            if all_masked
            else "a row of the mask leaves nothing"
        )
        yield Claim(
            "fully-masked-softmax", f"`{facts.op}` of a row that is masked throughout: {size}{facts.where}"
        )
    elif row.number("posinf") > 0 or any(o.number("posinf") > 0 for o in facts.operands):
        yield Claim("inf-minus-inf", f"`{facts.op}` of a row that holds +inf{facts.where}")
    elif facts.op.startswith("scaled_dot_product"):
        yield from overflow(facts)


def mean(facts: Facts) -> Iterator[Claim]:
    """Of targets that are all ignored, or weigh nothing together."""
    target, weight = facts.operand("target"), facts.operand("weight")
    ignored = facts.scalar("ignore_index")
    if target is not None and facts.is_nan and target.number("min") == target.number("max") == ignored:
        yield Claim(
            "empty-reduction",
            f"all {of_many(target.number('numel'), math.nan, 'target')} are {number(ignored)}, which the "
            "loss ignores: the mean of nothing",
        )
    elif target is not None and weight is not None and facts.is_nan and weight.number("zeros") > 0:
        zeros = of_many(weight.number("zeros"), weight.number("numel"), "weight")
        yield Claim(
            "division-by-zero", f"the weights of the targets in this batch sum to zero: {zeros} are zero"
        )
    else:
        yield from overflow(facts)


def spread(facts: Facts) -> Iterator[Claim]:
    """Variance or deviation of too few elements."""
    size, operand = facts.row.number("numel"), facts.operand("self") or Made({})
    size = operand.number("numel") if math.isnan(size) else size
    correction = facts.scalar("correction")
    correction = 1.0 if math.isnan(correction) else correction
    if size <= correction:
        word = "one element" if size == 1 else f"{whole(size)} elements"
        yield Claim(
            "degenerate-reduction",
            f"`{facts.op}` over {word} with correction {number(correction)} divides by zero{facts.where}",
        )
    else:
        yield from overflow(facts)


def normaliser(facts: Facts) -> Iterator[Claim]:
    """By a variance that is zero, or negative."""
    eps = facts.scalar("eps")
    variance = facts.operand("running_var")
    lowest = math.nan if variance is None else variance.number("min")
    if facts.is_nan and not facts.scalars.get("training") and lowest + eps < 0:
        yield Claim(
            "domain-error",
            f"`{facts.op}` takes the root of a running variance that is as low as {number(lowest)}",
            ("a variance is never negative: it was loaded, averaged or written by something else",),
            "check what writes into running_var, or call reset_running_stats()",
        )
    elif facts.is_nan and eps < NO_EPS:
        yield Claim(
            "division-by-zero",
            f"`{facts.op}` with eps={eps:g} of numbers all alike divides by a variance of zero{facts.where}",
            rewrite="leave eps at its default (1e-5)",
        )
    else:
        yield from overflow(facts)


def ctc(facts: Facts) -> Iterator[Claim]:
    """No path spells the target."""
    yield Claim(
        "bad-target",
        f"the CTC loss is infinite: no path of the input's length spells the target{facts.where}",
        ("a target may be no longer than its input, and each repeated letter takes one step more",),
        "F.ctc_loss(..., zero_infinity=True)",
    )
