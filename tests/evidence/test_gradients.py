"""Gradients born broken: an infinite slope, a branch that was not picked, or too large a product."""

from __future__ import annotations

import pytest

from tests.evidence.events import INF, Data, backward, claimed, first, maker, operand, origin

UNIT = operand(low=-1.0, high=1.0)
INNER = operand(low=-0.9, high=0.9)
SMALL = operand(low=1e-30)
WITH_ZERO = operand(low=0.0, zeros=4)
PICKED = operand("grad", 0.0, 1.0, zeros=9, made_by=maker("where", phase="backward"))
TAKEN = maker("threshold", operand("grad_output", 0.0, 1.0, zeros=9), phase="backward", of="relu")
CLAMPED = maker("where", operand(zeros=1), phase="backward", of="clamp")
CHOSEN = maker("where", operand(), phase="loss")
UNPICKED = operand("grad", 0.0, 1.0, zeros=9, made_by=maker("mul"))
LARGE = operand("grad", high=1e30)
QUOTIENT = [operand(), operand("other", low=0.0, zeros=6)]

CASES: dict[str, tuple[Data, list[str]]] = {
    "root": (backward("sqrt", WITH_ZERO, value=INF), ["sqrt-at-zero"]),
    "root of something small": (backward("sqrt", SMALL, grad=LARGE, value=INF), ["gradient-explosion"]),
    "hypotenuse": (backward("hypot", WITH_ZERO, WITH_ZERO), ["sqrt-at-zero"]),
    "norm of zeros": (backward("linalg_vector_norm", operand(low=0.0, high=0.0)), ["sqrt-at-zero"]),
    "norm of some zeros": (backward("linalg_vector_norm", WITH_ZERO), []),
    "deviation of equals": (backward("std", operand(low=2.0, high=2.0)), ["sqrt-at-zero"]),
    "deviation": (backward("std", WITH_ZERO), []),
    "power": (backward("pow", WITH_ZERO, value=INF, forward_scalars={"exponent": 0.5}), ["pow-at-zero"]),
    "power by a tensor": (
        backward("pow", WITH_ZERO, operand("exponent", 0.5), value=INF),
        ["pow-at-zero"],
    ),
    "cube": (
        backward("pow", WITH_ZERO, grad=LARGE, value=INF, forward_scalars={"exponent": 3}),
        ["gradient-explosion"],
    ),
    "arccosine": (backward("acos", UNIT, value=-INF), ["domain-boundary-gradient"]),
    "arccosine within": (backward("acos", INNER, grad=LARGE, value=-INF), ["gradient-explosion"]),
    "acosh": (backward("acosh", operand(low=1.0), value=INF), ["domain-boundary-gradient"]),
    "acosh above": (
        backward("acosh", operand(low=1.1), grad=LARGE, value=INF),
        ["gradient-explosion"],
    ),
    "logit": (backward("logit", operand(low=0.1, high=1.0), value=INF), ["domain-boundary-gradient"]),
    "atan2": (backward("atan2", WITH_ZERO, WITH_ZERO), []),
    "logarithm": (backward("log", WITH_ZERO, value=INF), ["log-of-zero"]),
    "log1p": (backward("log1p", UNIT, value=INF), ["log-of-zero"]),
    "log1p of zero": (backward("log1p", WITH_ZERO, grad=LARGE, value=INF), ["gradient-explosion"]),
    "log of a softmax": (backward("log_softmax", WITH_ZERO, grad=LARGE, value=INF), ["gradient-explosion"]),
    "xlogy": (backward("xlogy", operand(), operand("other", 0.0, zeros=1)), ["log-of-zero"]),
    "xlogy of zero": (backward("xlogy", WITH_ZERO, operand("other")), []),
    "quotient": (backward("div", operand(), operand("other", 0.0, zeros=1)), ["division-by-zero"]),
    "quotient of zero": (backward("div", WITH_ZERO, operand("other")), []),
    "quotient of zero by a constant": (backward("div", WITH_ZERO, forward_scalars={"other": 2.0}), []),
    "reciprocal": (backward("reciprocal", WITH_ZERO), ["division-by-zero"]),
    "unpicked root": (
        backward("sqrt", WITH_ZERO, grad=PICKED, held=[0.0]),
        ["masked-branch-gradient", "sqrt-at-zero"],
    ),
    "unpicked logarithm of a negative": (
        backward("log", operand(low=-1.0), grad=PICKED, held=[0.0]),
        ["masked-branch-gradient"],
    ),
    "unpicked arccosine of two": (
        backward("acos", operand(low=0.0, high=2.0), grad=PICKED, held=[0.0]),
        ["masked-branch-gradient"],
    ),
    "unpicked logarithm of zero": (
        backward("log", WITH_ZERO, grad=PICKED, held=[0.0]),
        ["masked-branch-gradient", "log-of-zero"],
    ),
    "a flat function before an overflow": (
        backward(
            "mul",
            operand(),
            grad=operand(
                "grad", zeros=9, made_by=maker("tanh", operand(made_by=maker("slice")), phase="backward")
            ),
            held=[0.0, INF],
        )
        | {"operands": [UNPICKED, operand("self", posinf=1, made_by=maker("exp", operand(high=300.0)))]},
        ["exp-overflow"],
    ),
    "a zero that a branch did not make": (
        backward("sqrt", WITH_ZERO, grad=operand("grad", zeros=9, made_by=TAKEN), held=[0.0]),
        ["sqrt-at-zero"],
    ),
    "the edge of a clamp": (
        backward("div", *QUOTIENT, grad=operand("grad", zeros=9, made_by=CLAMPED), held=[0.0]),
        ["division-by-zero"],
    ),
    "a branch of the forward pass": (
        backward("sqrt", WITH_ZERO, grad=operand("grad", zeros=9, made_by=CHOSEN), held=[0.0]),
        ["sqrt-at-zero"],
    ),
    "zero by itself": (backward("sqrt", WITH_ZERO, grad=UNPICKED, held=[0.0]), ["sqrt-at-zero"]),
    "picked": (backward("exp", operand(), grad=PICKED, held=[1.0]), []),
    "a product": (backward("mm", operand(high=1e20), grad=LARGE, value=INF), ["gradient-explosion"]),
    "a product of ordinary numbers": (backward("mm", operand(), value=INF), []),
    "equal eigenvalues": (
        backward("linalg_eigh", operand(), held=[0.1, 0.0], inner="div") | {"operands": QUOTIENT},
        ["division-by-zero"],
    ),
    "different eigenvalues": (
        backward("linalg_eigh", operand(), held=[0.1, 0.2], inner="div")
        | {"operands": [operand(), operand("other")]},
        [],
    ),
    "a NaN without an infinity": (backward("mm", operand(), grad=LARGE), []),
    "a NaN that came down": (backward("mm", operand(), grad=operand("grad", nan=1), value=INF), []),
    "float16": (
        backward("mm", operand(), grad=operand("grad", high=6e4), value=INF, result={"dtype": "float16"}),
        ["dtype-overflow"],
    ),
    "float16, NaN of small numbers": (backward("mm", operand(), result={"dtype": "float16"}), []),
    "nothing known": (backward("mm"), []),
}


@pytest.mark.parametrize("name", CASES)
def test_what_broke_a_gradient(name: str) -> None:
    """A cause where the operands prove it, none where they do not."""
    event, causes = CASES[name]
    assert claimed(event) == causes


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("root", "the slope of `sqrt` is infinite at zero; it received 4 exact zeros of 60, element [2, 0]"),
        ("power", "the slope of x ** 0.5 is infinite at zero, element [2, 0]"),
        ("arccosine", "the slope of `acos` is infinite at the edge of its domain, element [2, 0]"),
        ("log1p", "the slope of `log1p` is infinite at -1, element [2, 0]"),
        ("quotient", "the slope of `div` is infinite where it divides by zero, element [2, 0]"),
        (
            "unpicked root",
            (
                "the gradient that reached `sqrt` is zero, element [2, 0]: its result was not picked, but "
                "zero times its infinite slope is NaN"
            ),
        ),
        (
            "a product",
            "the gradient of `mm` is the product of finite numbers up to 1.0e30: larger than 3.4e38",
        ),
        (
            "float16",
            (
                "the gradient of `mm` is the product of finite numbers up to 60,000: it exceeds 65504, the "
                "largest number of float16"
            ),
        ),
    ],
)
def test_in_numbers(name: str, why: str) -> None:
    """What was asked of the operation, and where."""
    assert first(CASES[name][0]).why == why


@pytest.mark.parametrize(
    ("name", "rewrite"),
    [
        ("root", "torch.sqrt(x + eps)"),
        ("hypotenuse", "(x * x + y * y + eps).sqrt()"),
        ("acosh", "torch.acosh(x.clamp_min(1 + eps))"),
        ("logit", "torch.logit(x, eps=1e-6)"),
        ("arccosine", "torch.acos(x.clamp(-1 + eps, 1 - eps))"),
        ("unpicked root", "torch.where(ok, sqrt(torch.where(ok, x, 1.0)), 0.0)"),
    ],
)
def test_the_safe_form(name: str, rewrite: str) -> None:
    """The double `where`, a clamp to the domain, or an epsilon inside."""
    assert first(CASES[name][0]).rewrite == rewrite


def test_the_range_of_the_argument_is_evidence() -> None:
    """As it was in the forward pass."""
    assert first(CASES["arccosine"][0]).evidence == ("its argument ranges from -1 to 1",)


@pytest.mark.parametrize(
    ("op", "line", "said"),
    [
        ("div", 7, ("its results in the forward pass that were infinite, hidden from the loss: 4",)),
        ("div", 8, ()),
        ("exp", 7, ()),
    ],
)
def test_what_was_hidden_in_the_forward_pass(op: str, line: int, said: tuple[str, ...]) -> None:
    """The same operation of the same line had given infinities, which something hid until its gradient."""
    here = {"file": "a.py", "line": 7, "function": "f"}
    healed = {"op": op, "location": here | {"line": line}, "nan": 0, "posinf": 3, "neginf": 1}
    event = backward("div", *QUOTIENT) | {"location": here, "healed": [healed]}
    assert first(event).evidence == said


def test_a_spectrum_is_not_divided_by_something_else() -> None:
    """The safe form of equal eigenvalues is no larger divisor."""
    event, _ = CASES["equal eigenvalues"]
    assert "randn_like" in first(event).rewrite


@pytest.mark.parametrize(("low", "rewrite"), [(0.0, ""), (-2.0, "x / torch.where(y.abs() < eps, eps, y)")])
def test_the_divisor_of_a_hook(low: float, rewrite: str) -> None:
    """What went wrong inside of a hook is told with it, and a divisor of both signs is not clamped."""
    divisor = operand("other", low=low, zeros=1)
    event = origin("unit", operand(), divisor, held=[0.0, 0.0], hook=True, inner="div", phase="backward")
    claim = first(event)
    assert (claim.cause, claim.rewrite) == ("gradient-hook", rewrite)
    assert "1 exact zero of 60" in claim.evidence[0]
