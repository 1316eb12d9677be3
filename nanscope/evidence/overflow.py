"""Finite operands whose result is larger than its dtype can hold."""

from __future__ import annotations

import math
from collections.abc import Iterator

from nanscope.evidence.claims import Claim
from nanscope.evidence.facts import Facts, as_number
from nanscope.numbers import listed, number

STEEP = ("pow", "float_power", "prod", "cumprod", "exp", "sinh", "cosh", "matrix", "linalg", "det", "lgamma")
"""Operations whose result may be larger than any product of few of their operands."""


def overflow(facts: Facts) -> Iterator[Claim]:
    """A finite result too large for the dtype; which cause that has the rows must say."""
    if any(operand.number("nan") > 0 or operand.number("inf") > 0 for operand in facts.operands):
        return
    if any(math.isinf(as_number(value)) for value in facts.scalars.values()):
        return
    sizes = [
        f"{o.words} up to {number(o.number('abs_max'))}" for o in facts.operands if o.number("abs_max") > 0
    ]
    if not sizes or not can_overflow(facts) or (facts.is_nan and not parts_can_overflow(facts)):
        return
    dtype = facts.result.text("dtype") or "its dtype"
    limit = f"{number(facts.limit)}, the largest number of {dtype}"
    yield Claim("dtype-overflow", f"`{facts.op}` of {listed(sizes[:3])} makes more than {limit}")


def can_overflow(facts: Facts) -> bool:
    """Whether sums, products and quotients of numbers as large, or as small, as these may be too large.

    Each operand counts by its largest number or by one over its smallest, the largest of them twice (a
    square), and as many terms are added as there are elements. Powers and the like have no such bound.
    """
    if facts.op.startswith(STEEP):
        return True
    sizes = [o.number(key) for o in facts.operands for key in ("abs_max", "abs_min_nonzero")]
    sizes += [abs(as_number(value)) for value in facts.scalars.values()]
    logs = [abs(math.log(size)) for size in sizes if 0 < size < math.inf]
    counts = [count for o in facts.operands if 0 < (count := o.number("numel")) < math.inf]
    bound = sum(logs) + max(logs, default=0.0) + math.log(max(counts, default=1.0))
    return bound >= math.log(facts.limit)


def parts_can_overflow(facts: Facts) -> bool:
    """Whether finite operands are large enough for infinite partial results, which alone make a NaN.

    No sum of products of two operands, or of squares of one, is larger than the square of the largest number
    times the product of the others times how many there are.
    """
    sizes = [max(1.0, size) for o in facts.operands if 0 < (size := o.number("abs_max")) < math.inf]
    counts = [max(1.0, count) for o in facts.operands if 0 < (count := o.number("numel")) < math.inf]
    if not sizes:
        return False
    bound = sum(map(math.log, sizes)) + math.log(max(sizes)) + math.log(max(counts, default=1.0))
    return bound >= math.log(facts.limit)
