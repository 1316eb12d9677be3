"""What the operands of an operation prove, by the kind of operation: in the forward pass, loss and update."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

from nanscope.evidence.claims import Claim
from nanscope.evidence.facts import Facts, Made, Operation, between, of_many
from nanscope.numbers import number

LOGS = ("log", "log2", "log10", "log1p", "xlogy", "logit", "binary_cross_entropy", "xlog1py")
ROOTS = ("sqrt", "rsqrt")
EXPS = ("exp", "expm1", "exp2", "sinh", "cosh", "softplus", "special_exp")
DIVISIONS = ("div", "true_divide", "reciprocal", "floor_divide", "remainder", "fmod", "addcdiv")
BOUNDED = ("acos", "asin", "atanh", "acosh", "erfinv", "arccos", "arcsin")
UNDEFINED = ("lgamma", "digamma", "polygamma", "mvlgamma")
SOFTMAXES = ("softmax", "log_softmax", "logsumexp", "scaled_dot_product", "safe_softmax")
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
MEANS = ("mean", "nanmean", "nll_loss", "nll_loss2d", "nll_loss_nd", "cross_entropy")
SPREADS = ("std", "var", "std_mean", "var_mean")
NORMALISERS = ("layer_norm", "batch_norm", "group_norm", "instance_norm", "rms_norm", "batch_norm_legit")
NO_EPS = 1e-30  # adding less to a variance changes nothing
CAUSE_OF_EXP = "torch.logsumexp(x, dim)  # or F.log_softmax, F.softplus; or x.clamp(max=80)"

Rule = Callable[[Facts], "Iterator[Claim]"]


def by_operands(facts: Facts) -> Iterator[Claim]:
    """Claims about an operation from its operands, the most direct first; none if nothing is proved."""
    for names, rule in RULES.items():
        if facts.op.startswith(names):
            yield from rule(facts)
            return


def _log(facts: Facts) -> Iterator[Claim]:
    operand = facts.operand("self", "input", "other") or Made({})
    shift = 1.0 if facts.op.startswith(("log1p", "xlog1py")) else 0.0
    roles = ("other",) if facts.op.startswith("xlog") else ("self", "input")
    value = facts.at(*roles)
    lowest = min((v for v in (value, operand.number("min")) if not math.isnan(v)), default=math.nan) + shift
    shown = lowest if math.isnan(value) else value
    zeros = of_many(max(1.0, operand.number("zeros")), operand.number("numel"), "exact zero")
    if value + shift < 0 or (math.isnan(value) and lowest < 0):
        yield Claim(
            "domain-error",
            f"`{facts.op}` received a negative number: {number(shown)}{facts.where}",
            (f"its argument ranges from {between(operand)}", *_sources(facts)),
            "torch.log(x.clamp_min(eps))",
        )
    elif not lowest > 0:
        yield Claim(
            "log-of-zero",
            f"`{facts.op}` received {zeros}{facts.where}",
            (*_sources(facts), f"the smallest other argument is {number(operand.number('abs_min_nonzero'))}"),
            _log_pattern(facts),
        )


def _log_pattern(facts: Facts) -> str:
    names = [made.op for made in facts.before()]
    if any(name.startswith("softmax") for name in names):
        return "F.log_softmax(x, dim)  # instead of log(softmax(x))"
    if any(name.startswith("sigmoid") for name in names):
        return "F.logsigmoid(x), F.logsigmoid(-x)  # instead of log(sigmoid(x)), log(1 - sigmoid(x))"
    if any(name.startswith("exp") for name in names):
        return "torch.logsumexp(x, dim)  # instead of log(sum(exp(x)))"
    return "torch.log(x.clamp_min(eps))"


def _sources(facts: Operation) -> tuple[str, ...]:
    """Where a zero or an extreme comes from: the nearest operations that can underflow or saturate."""
    for made in facts.before():
        operand = next(iter(made.operands), None)
        if operand is None:
            continue
        low, high = operand.number("min"), operand.number("max")
        if made.op.startswith("softmax"):
            return (f"they come from `softmax` of logits spread over {number(high - low)}",)
        if made.op.startswith(("sigmoid", "tanh", "exp", "relu", "erf", "threshold")):
            return (f"they come from `{made.op}` of {between(operand)}",)
        if made.op.startswith(("sum", "norm", "mean", "var", "std", "prod", "linalg", "count")):
            zeros = operand.number("zeros")
            note = f", {of_many(zeros, operand.number('numel'), 'zero')}" if zeros > 0 else ""
            return (f"they come from `{made.op}` of numbers from {between(operand)}{note}",)
        if made.op.startswith(("sub", "rsub")):
            return (f"they come from a difference (`{made.op}`) of numbers from {between(operand)}",)
    return ()


def _root(facts: Facts) -> Iterator[Claim]:
    operand = facts.operand("self") or Made({})
    value = facts.at("self")
    value = operand.number("min") if math.isnan(value) else value
    if value < 0:
        pattern = "x.var(correction=0)  # instead of E[x^2] - E[x]^2" if _is_difference(facts) else ""
        yield Claim(
            "domain-error",
            f"`{facts.op}` received a negative number: {number(value)}{facts.where}",
            _sources(facts),
            pattern,
        )
    elif value == 0:
        yield Claim(
            "division-by-zero",
            f"`{facts.op}` divides by the root of an exact zero{facts.where}",
            _sources(facts),
            "torch.rsqrt(x + eps)",
        )


def _is_difference(facts: Facts) -> bool:
    nearest = next(iter(facts.before(1)), None)
    return nearest is not None and nearest.op.startswith(("sub", "rsub"))


def _exp(facts: Facts) -> Iterator[Claim]:
    operand = facts.operand("self") or Made({})
    base = 2.0 if facts.op.startswith("exp2") else math.e
    limit = math.log(facts.limit) / math.log(base)
    value = facts.at("self")
    value = operand.number("max") if math.isnan(value) else value
    if abs(value) > limit * 0.99:
        dtype = facts.result.text("dtype") or "its dtype"
        yield Claim(
            "exp-overflow",
            f"`{facts.op}` received {number(value)}{facts.where}; its result is infinite in {dtype} "
            f"above {number(limit)}",
            (f"its argument ranges from {between(operand)}",),
            CAUSE_OF_EXP,
        )


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
            yield from _overflow(facts)
        return
    if math.isnan(value) and divisor.number("zeros") > 0:
        value = 0.0
    if value == 0:
        upper = facts.operand("self", "tensor1")
        zeros = of_many(max(1.0, divisor.number("zeros")), divisor.number("numel"), "exact zero")
        zero = " (zero by zero)" if facts.is_nan and upper is not divisor else ""
        yield Claim(
            "division-by-zero",
            f"`{facts.op}` by {zeros}{zero}{facts.where}",
            _sources(Operation({"operands": [dict(divisor.data)]})),
        )
    elif math.isinf(value) and facts.is_nan:
        yield Claim("inf-minus-inf", f"`{facts.op}` of infinity by infinity{facts.where}")
    else:
        yield from _overflow(facts)


def _power(facts: Facts) -> Iterator[Claim]:
    base, exponent = facts.at("self"), facts.at("exponent")
    operand = facts.operand("self") or Made({})
    exponent = facts.scalar("exponent") if math.isnan(exponent) else exponent
    base = facts.scalar("self") if math.isnan(base) else base
    if base == 0 and exponent < 0:
        yield Claim("pow-at-zero", f"zero to the power of {number(exponent)}{facts.where}", _sources(facts))
    elif base < 0 and exponent != round(exponent):
        yield Claim(
            "domain-error",
            f"a negative number ({number(base)}) to the power of {number(exponent)}{facts.where}",
            (f"the base ranges from {between(operand)}",),
            "x.abs().pow(p) * x.sign()  # or x.clamp_min(0).pow(p)",
        )
    else:
        yield from _overflow(facts)


def _bounded(facts: Facts) -> Iterator[Claim]:
    value, operand = facts.at("self"), facts.operand("self") or Made({})
    value = max(operand.number("max"), -operand.number("min")) if math.isnan(value) else value
    yield Claim(
        "domain-error",
        f"`{facts.op}` received {number(value)}{facts.where}, outside of its domain",
        (f"its argument ranges from {between(operand)}",),
        f"torch.{facts.op}(x.clamp(-1 + eps, 1 - eps))",
    )


def _softmax(facts: Facts) -> Iterator[Claim]:
    row = facts.row
    masks = [
        o for o in facts.operands if "mask" in o.text("role") and o.number("neginf") + o.number("zeros") > 0
    ]
    whole = row.number("numel") > 0 and row.number("neginf") == row.number("numel")
    if whole or (masks and facts.is_nan):
        size = (
            f"all {int(row.number('numel')):,} positions of the row are -inf"
            if whole
            else "a row of the mask leaves nothing"
        )
        yield Claim(
            "fully-masked-softmax", f"`{facts.op}` of a row that is masked throughout: {size}{facts.where}"
        )
    elif row.number("posinf") > 0 or any(o.number("posinf") > 0 for o in facts.operands):
        yield Claim("inf-minus-inf", f"`{facts.op}` of a row that holds +inf{facts.where}")
    elif facts.op.startswith("scaled_dot_product"):
        yield from _overflow(facts)


def _mean(facts: Facts) -> Iterator[Claim]:
    operand = facts.operand("self") or Made({})
    target = facts.operand("target")
    ignored = facts.scalar("ignore_index")
    if operand.number("numel") == 0 or facts.row.number("numel") == 0:
        yield Claim("empty-reduction", f"`{facts.op}` over no element at all")
    elif target is not None and facts.is_nan and target.number("min") == target.number("max") == ignored:
        yield Claim(
            "empty-reduction",
            f"all {int(target.number('numel')):,} targets are {number(ignored)}, which the loss ignores: "
            "the mean of nothing",
        )
    elif target is not None and facts.is_nan:
        yield Claim("division-by-zero", "the weights of the targets in this batch sum to zero")
    else:
        yield from _overflow(facts)


def _spread(facts: Facts) -> Iterator[Claim]:
    size, operand = facts.row.number("numel"), facts.operand("self") or Made({})
    size = operand.number("numel") if math.isnan(size) else size
    correction = facts.scalar("correction")
    correction = 1.0 if math.isnan(correction) else correction
    if size <= correction:
        word = "no element" if size == 0 else "one element" if size == 1 else f"{int(size)} elements"
        yield Claim(
            "degenerate-reduction" if size else "empty-reduction",
            f"`{facts.op}` over {word} with correction {number(correction)} divides by zero{facts.where}",
        )
    else:
        yield from _overflow(facts)


def _normaliser(facts: Facts) -> Iterator[Claim]:
    eps = facts.scalar("eps")
    if facts.is_nan and eps < NO_EPS:
        yield Claim(
            "division-by-zero",
            f"`{facts.op}` with eps={eps:g} of numbers all alike divides by a variance of zero{facts.where}",
            rewrite="leave eps at its default (1e-5)",
        )
    else:
        yield from _overflow(facts)


def _product(facts: Facts) -> Iterator[Claim]:
    yield from _zero_times_inf(facts)
    yield from _overflow(facts)


def _zero_times_inf(facts: Facts) -> Iterator[Claim]:
    held = facts.element[1] if facts.element else ()
    values = [value for value in held if value is not None] + [facts.scalar("other", "value")]
    if facts.is_nan and 0.0 in values and any(math.isinf(value) for value in values):
        yield Claim("zero-times-inf", f"`{facts.op}` of zero and infinity{facts.where}", _healed(facts))


def _healed(facts: Facts) -> tuple[str, ...]:
    inner = next((made for made in facts.before() if any(o.number("inf") > 0 for o in made.operands)), None)
    return () if inner is None else (f"the infinity passed through `{inner.op}`",)


def _sum(facts: Facts) -> Iterator[Claim]:
    infinite = [o for o in facts.operands if o.number("posinf") > 0 or o.number("neginf") > 0]
    if facts.is_nan and infinite:
        yield Claim("inf-minus-inf", f"`{facts.op}` of infinities of opposite sign{facts.where}")
    else:
        yield from _overflow(facts)


def _undefined(facts: Facts) -> Iterator[Claim]:
    value = facts.at("self")
    yield Claim("domain-error", f"`{facts.op}` is not defined at {number(value)}{facts.where}")


def _ctc(facts: Facts) -> Iterator[Claim]:
    yield Claim(
        "bad-target",
        f"the CTC loss is infinite: no path of the input's length spells the target{facts.where}",
        ("a target may be no longer than its input, and each repeated letter takes one step more",),
        "F.ctc_loss(..., zero_infinity=True)",
    )


def _overflow(facts: Facts) -> Iterator[Claim]:
    """A finite result too large for the dtype; which cause that has the rows must say."""
    if any(operand.number("nan") > 0 or operand.number("inf") > 0 for operand in facts.operands):
        return
    dtype = facts.result.text("dtype") or "its dtype"
    sizes = [
        f"{o.words} up to {number(o.number('abs_max'))}" for o in facts.operands if o.number("abs_max") > 0
    ]
    if not sizes:
        return
    text = (
        f"`{facts.op}` of {', '.join(sizes[:3])} exceeds {number(facts.limit)}, the largest number of {dtype}"
    )
    yield Claim("dtype-overflow", text)


RULES: Mapping[str | tuple[str, ...], Rule] = {
    ("log_softmax", "logsumexp"): _softmax,
    ("logical", "logspace"): lambda _: iter(()),
    LOGS: _log,
    ROOTS: _root,
    EXPS: _exp,
    DIVISIONS: _division,
    "pow": _power,
    BOUNDED: _bounded,
    SOFTMAXES: _softmax,
    "ctc_loss": _ctc,
    MEANS: _mean,
    SPREADS: _spread,
    NORMALISERS: _normaliser,
    ("mul", *PRODUCTS): _product,
    ("add", "sub", "rsub", "sum", "cumsum", "addcmul", "lerp"): _sum,
    UNDEFINED: _undefined,
    "": _overflow,
}
"""By how the operation's name begins; the first that fits."""
