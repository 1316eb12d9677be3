"""What the operands of an operation prove, by the kind of operation: in the forward pass, loss and update."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

from nanscope.evidence.claims import Claim
from nanscope.evidence.domains import bounded, entropy, exponential, logarithm, power, root, undefined
from nanscope.evidence.facts import Facts, Made, Operation, of_many
from nanscope.evidence.matrices import CHOLESKY, DETERMINANTS, INVERSES, cholesky, determinant, inverse
from nanscope.evidence.overflow import overflow
from nanscope.evidence.reductions import (
    ctc,
    is_of_nothing,
    mean,
    normaliser,
    of_nothing,
    softmax,
    spread,
)
from nanscope.evidence.sources import sources

LOGS = ("log", "xlogy", "xlog1py")
NO_LOGS = ("logical", "logspace", "logaddexp", "logcumsumexp", "log_sigmoid", "log_normal")
ROOTS = ("sqrt", "rsqrt")
EXPS = ("exp", "sinh", "cosh", "softplus")
DIVISIONS = ("div", "true_divide", "reciprocal", "floor_divide", "remainder", "fmod", "addcdiv")
BOUNDED = ("acos", "asin", "atanh", "erfinv", "arccos", "arcsin")
UNDEFINED = ("lgamma", "digamma", "polygamma", "mvlgamma")
SOFTMAXES = ("softmax", "scaled_dot_product", "safe_softmax")
PRODUCTS = (
    "addmm",
    "mm",
    "bmm",
    "baddbmm",
    "convolution",
    "matmul",
    "dot",
    "mv",
    "addmv",
    "linear",
    "mkldnn",
)
MEANS = ("mean", "nanmean", "nll_loss", "cross_entropy")
SPREADS = ("std", "var")
NORMALISERS = ("layer_norm", "batch_norm", "group_norm", "instance_norm", "rms_norm")

EXTREMES = ("amax", "max", "amin", "min", "logsumexp", "topk", "kthvalue", "median", "sort", "aminmax")

Rule = Callable[[Facts], "Iterator[Claim]"]


def by_operands(facts: Facts) -> Iterator[Claim]:
    """Claims about an operation from its operands, the most direct first; none if nothing is proved."""
    if is_of_nothing(facts):
        yield from of_nothing(facts)
        return
    for names, rule in RULES.items():
        if facts.op.startswith(names):
            yield from rule(facts)
            return


def _division(facts: Facts) -> Iterator[Claim]:
    role = {"reciprocal": "self", "addcdiv": "tensor2"}.get(facts.op, "other")
    if facts.operand(role) is None and str(facts.data.get("call")).endswith(("__rtruediv__", "__rdiv__")):
        role = "self"  # `1 / x`
    divisor = facts.operand(role)
    value = facts.at(role)
    if divisor is None:
        value = facts.scalar("other", "rhs")
        if value == 0:
            yield Claim("division-by-zero", f"`{facts.op}` by the constant zero{facts.where}")
        else:
            yield from overflow(facts)
        return
    if math.isnan(value) and divisor.number("zeros") > 0:
        value = 0.0
    if value == 0:
        upper = facts.operand("self", "tensor1")
        zeros = of_many(max(1.0, divisor.number("zeros")), divisor.number("numel"), "exact zero")
        zeros = "exactly zero" if divisor.number("numel") == 1 else zeros
        zero = " (zero by zero)" if facts.is_nan and upper is not divisor else ""
        yield Claim(
            "division-by-zero",
            f"`{facts.op}` by {zeros}{zero}{facts.where}",
            sources(Operation({"operands": [dict(divisor.data)]})),
            "x / torch.where(y.abs() < eps, eps, y)" if divisor.number("min") < 0 else "",
        )
    elif math.isinf(value) and facts.is_nan:
        yield Claim("inf-minus-inf", f"`{facts.op}` of infinity by infinity{facts.where}")
    else:
        yield from overflow(facts)


def _product(facts: Facts) -> Iterator[Claim]:
    found = [*_zero_times_inf(facts), *_largest_of_nothing(facts)]
    yield from found or [*_infinite_terms(facts), *overflow(facts)]


def _largest_of_nothing(facts: Facts) -> Iterator[Claim]:
    """An infinity that a maximum, or the like, gave because all that it was taken over was masked."""
    for operand in facts.operands if facts.is_nan else ():
        made = operand.maker
        if operand.number("inf") > 0 and made is not None and made.op.startswith(EXTREMES):
            given = next(iter(made.operands), Made({}))
            masked = of_many(given.number("inf"), given.number("numel"), "infinity").replace(
                "infinitys", "infinities"
            )
            yield Claim(
                "empty-reduction",
                f"`{facts.op}` received infinities of `{made.op}`, taken over elements that are masked "
                f"throughout{facts.where}",
                (f"`{made.op}` received {masked}",),
                "x.amax(dim).masked_fill(mask.all(dim), 0.0)",
            )
            return


def _weight_norm(facts: Facts) -> Iterator[Claim]:
    if facts.is_nan and facts.at("v") == 0:
        yield Claim(
            "division-by-zero", f"`{facts.op}` divides weights that are all zero by their norm{facts.where}"
        )
    else:
        yield from overflow(facts)


def _zero_times_inf(facts: Facts) -> Iterator[Claim]:
    held = facts.element[1] if facts.element else ()
    values = [value for value in held if value is not None] + [facts.scalar("other", "value")]
    if facts.is_nan and 0.0 in values and any(math.isinf(value) for value in values):
        yield Claim("zero-times-inf", f"`{facts.op}` of zero and infinity{facts.where}", _healed(facts))


def _healed(facts: Facts) -> tuple[str, ...]:
    inner = next((made for made in facts.before() if any(o.number("inf") > 0 for o in made.operands)), None)
    return () if inner is None else (f"the infinity passed through `{inner.op}`",)


def _infinite_terms(facts: Facts) -> Iterator[Claim]:
    infinite = any(o.number("posinf") > 0 or o.number("neginf") > 0 for o in facts.operands)
    if facts.is_nan and infinite and facts.op != "mul":
        yield Claim("inf-minus-inf", f"`{facts.op}` of infinities of opposite sign{facts.where}")


def _sum(facts: Facts) -> Iterator[Claim]:
    yield from [*_infinite_terms(facts)] or overflow(facts)


RULES: Mapping[str | tuple[str, ...], Rule] = {
    ("log_softmax", "logsumexp"): softmax,
    NO_LOGS: overflow,
    DETERMINANTS: determinant,
    INVERSES: inverse,
    CHOLESKY: cholesky,
    LOGS: logarithm,
    ROOTS: root,
    EXPS: exponential,
    DIVISIONS: _division,
    "pow": power,
    ("acosh", *BOUNDED): bounded,
    SOFTMAXES: softmax,
    "ctc_loss": ctc,
    MEANS: mean,
    SPREADS: spread,
    NORMALISERS: normaliser,
    ("mul", *PRODUCTS): _product,
    ("add", "sub", "rsub", "sum", "cumsum", "addcmul", "lerp"): _sum,
    UNDEFINED: undefined,
    "entr": entropy,
    "weight_norm": _weight_norm,
    "": overflow,
}
"""By how the operation's name begins; the first that fits."""
