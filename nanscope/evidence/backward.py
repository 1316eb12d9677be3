"""What the operands prove about a gradient: the operation's own slope, or what came down to it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from nanscope.evidence.claims import Claim
from nanscope.evidence.facts import Facts, Made, Operation, as_list, between, of_many, whole
from nanscope.evidence.forward import DIVISIONS, by_operands
from nanscope.evidence.matrices import SPECTRA
from nanscope.evidence.overflow import can_overflow, parts_can_overflow
from nanscope.numbers import number

NORMS = ("norm", "linalg_vector_norm", "std", "cdist", "pdist", "euclidean", "pairwise")
LOGS = ("log", "log2", "log10", "xlogy")
EDGES: Mapping[str, tuple[float, float]] = {
    "acos": (-1.0, 1.0),
    "asin": (-1.0, 1.0),
    "atanh": (-1.0, 1.0),
    "erfinv": (-1.0, 1.0),
    "acosh": (1.0, math.inf),
    "logit": (0.0, 1.0),
}
"""Where the slope of a function is infinite."""

PICKING = (
    "where",
    "masked",
    "index",
    "threshold",
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


DEEPEST = 4
UNLIKE = "x + eps * torch.randn_like(x)  # no two values alike; or a loss of the values alone"

SATURATING = (
    "tanh",
    "sigmoid",
    "softmax",
    "log_softmax",
    "erf",
    "hardtanh",
    "hardsigmoid",
    "clamp",
    "gelu",
    "silu",
)
"""Functions that let no gradient through where they are flat: nothing is picked there."""


def of_gradient(facts: Facts) -> Iterator[Claim]:
    """Claims about a gradient that was born broken; none if nothing is proved."""
    hidden = tuple(_hidden(facts))
    for claim in _of_gradient(facts):
        yield Claim(claim.cause, claim.why, (*claim.evidence, *hidden), claim.rewrite)
        hidden = ()


def _hidden(facts: Facts) -> Iterator[str]:
    """Whether the same line had given something non-finite before, which did not reach the loss."""
    for each in as_list(facts.data.get("healed")):
        made = Made(each if isinstance(each, Mapping) else {})
        same = facts.forward is not None and made.text("op") == facts.forward.op
        if same and made.data.get("location") == facts.data.get("location"):
            infinite = made.number("posinf") + made.number("neginf")
            count, kind = (infinite, "infinite") if infinite > 0 else (made.number("nan"), "NaN")
            yield f"its results in the forward pass that were {kind}, hidden from the loss: {whole(count)}"
            return


def _of_gradient(facts: Facts) -> Iterator[Claim]:
    forward = facts.forward or Operation({})
    name, operand = forward.op or facts.op, next(iter(forward.operands), Made({}))
    masked = _is_masked(facts)
    if masked:
        yield _masked(facts, name, operand)
    slope = next(_slopes(facts, forward, name, operand), None) or next(_quotient(facts, name), None)
    if slope is not None:
        yield slope
    elif not masked:
        yield from _infinity(facts, name)
        yield from _product(facts, name)


def _infinity(facts: Facts, name: str) -> Iterator[Claim]:
    """Something infinite of the forward pass, which did no harm there, meets a gradient of zero."""
    for operand in facts.operands if facts.is_nan else ():
        made, depth = operand, 0
        while made.number("inf") > 0 and (maker := made.maker) is not None and depth < DEEPEST:
            born = Facts({**maker.data, "result": {"dtype": made.text("dtype"), "posinf": 1}})
            for claim in by_operands(born):
                why = f"{claim.why}; the backward of `{name}` multiplies it by zero{facts.where}"
                yield Claim(claim.cause, why, claim.evidence, claim.rewrite)
                return
            made = next((o for o in maker.operands if o.number("inf") > 0), Made({}))
            depth += 1


def _quotient(facts: Facts, name: str) -> Iterator[Claim]:
    """The formula of the gradient itself divides by zero."""
    inner = Facts({**facts.data, "op": facts.data.get("inner")})
    for claim in by_operands(inner) if inner.op.startswith(DIVISIONS) else ():
        if claim.cause == "division-by-zero":
            of_spectrum = name.startswith(SPECTRA)
            alike = "two eigenvalues or singular values are alike; " if of_spectrum else ""
            safe = UNLIKE if of_spectrum else ""
            yield Claim(
                claim.cause, f"the gradient of `{name}` divides by zero: {alike}{claim.why}", (), safe
            )


def _slopes(facts: Facts, forward: Operation, name: str, operand: Made) -> Iterator[Claim]:
    """The slope of the operation is infinite where it was asked for."""
    ranged = (f"its argument ranges from {between(operand)}",)
    low, high = operand.number("min"), operand.number("max")
    if name in ("sqrt", "rsqrt", "hypot") and _has_zero(operand):
        zeros = of_many(max(1.0, operand.number("zeros")), operand.number("numel"), "exact zero")
        why = f"the slope of `{name}` is infinite at zero; it received {zeros}{facts.where}"
        safe = "(x * x + y * y + eps).sqrt()" if name == "hypot" else "torch.sqrt(x + eps)"
        yield Claim("sqrt-at-zero", why, ranged, safe)
    elif name.startswith(NORMS) and low == high and (low == 0 or name.startswith("std")):
        what = "where all numbers are alike" if name.startswith("std") else "where all is zero"
        why = f"the slope of `{name}` is infinite {what}{facts.where}"
        yield Claim("sqrt-at-zero", why, ranged, "(x.pow(2).sum(dim) + eps).sqrt()")
    elif name.startswith("pow") and _has_zero(operand) and _exponent(forward) < 1:
        exponent = number(_exponent(forward))
        yield Claim("pow-at-zero", f"the slope of x ** {exponent} is infinite at zero{facts.where}", ranged)
    elif name in EDGES and (low == EDGES[name][0] or high == EDGES[name][1]):
        why = f"the slope of `{name}` is infinite at the edge of its domain{facts.where}"
        yield Claim("domain-boundary-gradient", why, ranged, _inside(name))
    elif name in LOGS and _has_zero(_argument(forward, name, operand)):
        yield Claim("log-of-zero", f"the slope of `{name}` is infinite at zero{facts.where}", ranged)
    elif name == "log1p" and low == -1:
        yield Claim("log-of-zero", f"the slope of `log1p` is infinite at -1{facts.where}", ranged)
    elif name.startswith(("div", "reciprocal")) and _divides_by_zero(forward, name, operand):
        why = f"the slope of `{name}` is infinite where it divides by zero{facts.where}"
        yield Claim("division-by-zero", why)


def _exponent(forward: Operation) -> float:
    """The smallest that it was raised to, NaN if that is not known."""
    tensor = forward.operand("exponent")
    return forward.scalar("exponent") if tensor is None else tensor.number("min")


def _argument(forward: Operation, name: str, operand: Made) -> Made:
    return forward.operand("other") or operand if name == "xlogy" else operand


def _divides_by_zero(forward: Operation, name: str, operand: Made) -> bool:
    divisor = forward.operand("other")
    turned = name == "reciprocal" or str(forward.data.get("call")).endswith(("__rtruediv__", "__rdiv__"))
    if divisor is None and not turned:
        return forward.scalar("other") == 0
    return _has_zero(divisor or operand)


def _inside(name: str) -> str:
    """The safe form of a function with edges."""
    if name == "logit":
        return "torch.logit(x, eps=1e-6)"
    return f"torch.{name}(x.{'clamp_min(1 + eps)' if name == 'acosh' else 'clamp(-1 + eps, 1 - eps)'})"


def _is_masked(facts: Facts) -> bool:
    """Whether nothing was asked of the element because something else was picked: 0 times inf is NaN."""
    held = [value for value in (facts.element[1] if facts.element else ()) if value is not None]
    incoming = facts.at("grad", "grad_output", "self")
    nothing = facts.is_nan and (incoming == 0.0 or (0.0 in held and any(math.isinf(v) for v in held)))
    names = (name for name in _stopping(facts, DEEPEST) if name.startswith((*PICKING, *SATURATING)))
    return nothing and not next(names, SATURATING[0]).startswith(SATURATING)


def _stopping(facts: Operation, depth: int) -> Iterator[str]:
    """The functions whose gradients made more zeros than had come down to them, nearest first."""
    makers = [(made, maker) for made in facts.operands if (maker := made.maker) and maker.phase == "backward"]
    for made, maker in makers:
        before = maker.operand("grad", "grad_output", "grad_outputs", "src", "self") or Made({})
        if not made.number("zeros") <= before.number("zeros"):
            yield maker.function
    for _, maker in makers if depth > 1 else ():
        yield from _stopping(maker, depth - 1)


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
    if any(operand.number("nan") > 0 or operand.number("inf") > 0 for operand in facts.operands):
        return
    sizes = [f"{number(o.number('abs_max'))}" for o in facts.operands if o.number("abs_max") > 0]
    narrow = facts.result.text("dtype") == "float16"
    if not sizes or not can_overflow(facts) or (facts.is_nan and not (narrow and parts_can_overflow(facts))):
        return
    text = f"the gradient of `{name}` is the product of finite numbers up to {' and '.join(sizes[:2])}"
    if narrow:
        yield Claim("dtype-overflow", f"{text}: it exceeds 65504, the largest number of float16")
    else:
        yield Claim("gradient-explosion", f"{text}: larger than {number(facts.limit)}")
