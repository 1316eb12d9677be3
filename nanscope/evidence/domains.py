"""Functions with a domain: which edge of it an operand has reached or crossed."""

from __future__ import annotations

import math
from collections.abc import Iterator

from nanscope.evidence.claims import Claim
from nanscope.evidence.facts import Facts, Made, between, of_many
from nanscope.evidence.overflow import overflow
from nanscope.evidence.sources import is_difference, pattern_of_log, sources
from nanscope.numbers import number

EXP_REWRITE = "torch.logsumexp(x, dim)  # or F.log_softmax, F.softplus; or x.clamp(max=80)"


def logarithm(facts: Facts) -> Iterator[Claim]:
    """Of zero, or of a negative number; those of `log1p` and `logit` have other edges."""
    low = -1.0 if facts.op.startswith(("log1p", "xlog1py")) else 0.0
    high = 1.0 if facts.op == "logit" else math.inf
    roles = ("other",) if facts.op.startswith("xlog") else ("self", "input")
    operand = facts.operand(*roles) or Made({})
    value = facts.at(*roles)
    if math.isnan(value):
        extremes = operand.number("min"), operand.number("max")
        value = next((v for v in extremes if v <= low or v >= high), math.nan)
    if value < low or value > high:
        ends = "" if low == 0 and value < 0 else f"; it is defined between {number(low)} and {number(high)}"
        what = "" if ends else "a negative number: "
        yield Claim(
            "domain-error",
            f"`{facts.op}` received {what}{number(value)}{facts.where}{ends}",
            (f"its argument ranges from {between(operand)}", *sources(facts)),
            _safe_log(facts),
        )
    elif value == 0:
        zeros = of_many(max(1.0, operand.number("zeros")), operand.number("numel"), "exact zero")
        smallest = operand.number("abs_min_nonzero")
        others = () if math.isnan(smallest) else (f"the smallest other argument is {number(smallest)}",)
        why = f"`{facts.op}` received {zeros}{facts.where}"
        yield Claim("log-of-zero", why, (*sources(facts), *others), pattern_of_log(facts))
    elif value in (low, high) and math.isfinite(value):
        yield Claim(
            "log-of-zero",
            f"`{facts.op}` received {number(value)}{facts.where}: its result is infinite there",
            sources(facts),
            _safe_log(facts),
        )


def _safe_log(facts: Facts) -> str:
    if facts.op == "logit":
        return "torch.logit(x, eps=1e-6)"
    edge = "-1 + eps" if facts.op == "log1p" else "eps"
    return f"torch.{'log1p' if facts.op == 'log1p' else 'log'}(x.clamp_min({edge}))"


def root(facts: Facts) -> Iterator[Claim]:
    """Of a negative number, or one over that of zero."""
    operand = facts.operand("self") or Made({})
    value = facts.at("self")
    value = operand.number("min") if math.isnan(value) else value
    if value < 0:
        rewrite = "x.var(correction=0)  # instead of E[x^2] - E[x]^2" if is_difference(facts) else ""
        yield Claim(
            "domain-error",
            f"`{facts.op}` received a negative number: {number(value)}{facts.where}",
            sources(facts),
            rewrite,
        )
    elif value == 0 and facts.op.startswith("rsqrt"):
        yield Claim(
            "division-by-zero",
            f"`{facts.op}` divides by the root of an exact zero{facts.where}",
            sources(facts),
            "torch.rsqrt(x + eps)",
        )


def exponential(facts: Facts) -> Iterator[Claim]:
    """Of a number above the logarithm of the largest one."""
    operand = facts.operand("self") or Made({})
    base = 2.0 if facts.op.startswith("exp2") else math.e
    limit = math.log(facts.limit) / math.log(base)
    value = facts.at("self")
    value = operand.number("max") if math.isnan(value) else value
    if limit * 0.99 < abs(value) < math.inf:
        dtype = facts.result.text("dtype") or "its dtype"
        yield Claim(
            "exp-overflow",
            f"`{facts.op}` received {number(value)}{facts.where}; its result is infinite in {dtype} "
            f"above {number(limit)}",
            (f"its argument ranges from {between(operand)}",),
            EXP_REWRITE,
        )


def power(facts: Facts) -> Iterator[Claim]:
    """Zero to a negative power, a root of a negative number, or too large."""
    base, exponent = facts.at("self"), facts.at("exponent")
    operand = facts.operand("self") or Made({})
    exponent = facts.scalar("exponent") if math.isnan(exponent) else exponent
    base = facts.scalar("self") if math.isnan(base) else base
    if base == 0 and exponent < 0:
        yield Claim("pow-at-zero", f"zero to the power of {number(exponent)}{facts.where}", sources(facts))
    elif base < 0 and math.isfinite(exponent) and not exponent.is_integer():
        yield Claim(
            "domain-error",
            f"a negative number ({number(base)}) to the power of {number(exponent)}{facts.where}",
            (f"the base ranges from {between(operand)}",),
            "x.abs().pow(p) * x.sign()  # or x.clamp_min(0).pow(p)",
        )
    else:
        yield from overflow(facts)


def bounded(facts: Facts) -> Iterator[Claim]:
    """Inverse cosines and the like: outside of [-1, 1], or below 1."""
    from_one = facts.op == "acosh"
    value, operand = facts.at("self"), facts.operand("self") or Made({})
    if math.isnan(value):
        low, high = operand.number("min"), operand.number("max")
        value = low if from_one or -low > high else high
    inside = value >= 1 if from_one else abs(value) < 1
    if math.isnan(value) or inside:
        return
    limits = "clamp_min(1 + eps)" if from_one else "clamp(-1 + eps, 1 - eps)"
    edge = "the edge of its domain, where its result is infinite"
    outside = edge if abs(value) == 1 else "outside of its domain"
    yield Claim(
        "domain-error",
        f"`{facts.op}` received {number(value)}{facts.where}, {outside}",
        (f"its argument ranges from {between(operand)}",),
        f"torch.{facts.op}(x.{limits})",
    )


def entropy(facts: Facts) -> Iterator[Claim]:
    """Of a number below zero: -x log x is taken as -inf there."""
    value = facts.at("self")
    if -math.inf < value < 0:
        yield Claim(
            "domain-error",
            f"`{facts.op}` received a negative number: {number(value)}{facts.where}",
            sources(facts),
            "torch.special.entr(x.clamp_min(0))",
        )


def undefined(facts: Facts) -> Iterator[Claim]:
    """Functions with poles at zero and at negative numbers."""
    value = facts.at("self")
    if -math.inf < value <= 0:
        why = f"`{facts.op}` is not defined at {number(value)}{facts.where}"
        yield Claim("domain-error", why, sources(facts), f"torch.{facts.op}(x.clamp_min(eps))")
    else:
        yield from overflow(facts)
