"""What the operands prove about a gradient: the operation's own slope, or what came down to it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from nanscope.evidence.claims import Claim
from nanscope.evidence.facts import Facts, Made, Operation, between, of_many
from nanscope.numbers import number

ROOTS = (
    "sqrt",
    "rsqrt",
    "norm",
    "linalg_vector_norm",
    "std",
    "cdist",
    "pdist",
    "euclidean",
    "pairwise",
    "var_mean",
)
EDGES = ("acos", "asin", "atanh", "acosh", "logit", "erfinv", "atan2", "angle")
PICKING = (
    "where",
    "masked",
    "index",
    "threshold",
    "clamp",
    "gather",
    "scatter",
    "maximum",
    "minimum",
    "select",
    "slice",
    "nan_to_num",
    "max",
    "min",
    "relu",
    "embedding",
)
LOGS = ("log", "xlogy")


def of_gradient(facts: Facts) -> Iterator[Claim]:
    """Claims about a gradient that was born broken; none if nothing is proved."""
    forward = facts.forward or Operation({})
    name, operand = forward.op or facts.op, next(iter(forward.operands), Made({}))
    if _is_masked(facts):
        yield _masked(facts, name, operand)
    if name.startswith(ROOTS) and _has_zero(operand):
        zeros = of_many(max(1.0, operand.number("zeros")), operand.number("numel"), "exact zero")
        yield Claim(
            "sqrt-at-zero",
            f"the slope of `{name}` is infinite at zero; it received {zeros}{facts.where}"
            if not name.startswith("std")
            else f"the slope of `{name}` is infinite where all numbers are alike{facts.where}",
            (f"its argument ranges from {between(operand)}",),
            "torch.sqrt(x + eps)" if "sqrt" in name else "(x.pow(2).sum(dim) + eps).sqrt()",
        )
    elif name.startswith("std"):
        yield Claim(
            "sqrt-at-zero",
            f"the slope of `{name}` is infinite where all numbers are alike{facts.where}",
            (f"its argument ranges from {between(operand)}",),
            "(x.var(dim) + eps).sqrt()",
        )
    elif name.startswith("pow") and _has_zero(operand):
        exponent = forward.scalar("exponent")
        yield Claim("pow-at-zero", f"the slope of x ** {number(exponent)} is infinite at zero{facts.where}")
    elif name.startswith(EDGES):
        yield Claim(
            "domain-boundary-gradient",
            f"the slope of `{name}` is infinite at the edge of its domain{facts.where}",
            (f"its argument ranges from {between(operand)}",),
            f"torch.{name}(x.clamp(-1 + eps, 1 - eps))",
        )
    elif name.startswith(LOGS) and _has_zero(operand):
        yield Claim("log-of-zero", f"the slope of `{name}` is infinite at zero{facts.where}")
    elif name.startswith(("div", "reciprocal")) and _has_zero(forward.operand("other") or operand):
        yield Claim(
            "division-by-zero", f"the slope of `{name}` is infinite where it divides by zero{facts.where}"
        )
    elif not _is_masked(facts):
        yield from _product(facts, name)


def _is_masked(facts: Facts) -> bool:
    """Whether nothing was asked of the element because something else was picked: 0 times inf is NaN."""
    held = [value for value in (facts.element[1] if facts.element else ()) if value is not None]
    incoming = facts.at("grad", "grad_output", "self")
    nothing = facts.is_nan and (incoming == 0.0 or (0.0 in held and any(math.isinf(v) for v in held)))
    return nothing and any(made.op.startswith(PICKING) for made in facts.before())


def _masked(facts: Facts, name: str, operand: Made) -> Claim:
    return Claim(
        "masked-branch-gradient",
        f"the gradient that reached `{name}` is zero{facts.where}: its result was not picked, "
        "but zero times its infinite slope is NaN",
        (f"the argument of `{name}` ranges from {between(operand)}",),
        f"torch.where(ok, {name}(torch.where(ok, x, 1.0)), 0.0)",
    )


def _has_zero(operand: Made) -> bool:
    return operand.number("zeros") > 0 or operand.number("abs_max") == 0


def _product(facts: Facts, name: str) -> Iterator[Claim]:
    if any(operand.number("nan") > 0 for operand in facts.operands):
        return
    sizes = [f"{number(o.number('abs_max'))}" for o in facts.operands if o.number("abs_max") > 0]
    if facts.result.text("dtype") == "float16":
        yield Claim(
            "dtype-overflow", f"the gradient of `{name}` exceeds 65504, the largest number of float16"
        )
    elif sizes and not facts.is_nan:
        text = f"the gradient of `{name}` is the product of finite numbers up to {' and '.join(sizes[:2])}"
        yield Claim("gradient-explosion", f"{text}: larger than {number(facts.limit)}")
