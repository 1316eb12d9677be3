"""Functions with a domain: logarithms, roots, powers, inverse cosines; which edge was crossed."""

from __future__ import annotations

import pytest

from tests.evidence.events import INF, Data, claimed, first, maker, operand, origin

LOG_OF_ZERO = origin("log", operand(low=0.0, zeros=3), value=-INF, held=[0.0])

CASES: dict[str, tuple[Data, list[str]]] = {
    "log of zero": (LOG_OF_ZERO, ["log-of-zero"]),
    "log of a negative": (origin("log", operand(low=-1.0), held=[-1.0]), ["domain-error"]),
    "log2, element unknown": (origin("log2", operand(low=-1.0), held=[None]), ["domain-error"]),
    "log10, element unknown": (origin("log10", operand(low=0.0, zeros=1), held=[None]), ["log-of-zero"]),
    "log of the smallest": (origin("log", operand(low=1e-45), value=-INF, held=[1e-45]), []),
    "log of what is not known": (origin("log"), []),
    "log of an infinity that is meant": (origin("log", operand(posinf=1), value=INF, held=[INF]), []),
    "log1p of -1": (origin("log1p", operand(low=-1.0), value=-INF, held=[-1.0]), ["log-of-zero"]),
    "log1p of -2": (origin("log1p", operand(low=-2.0), held=[-2.0]), ["domain-error"]),
    "log1p of -0.5": (origin("log1p", operand(low=-0.5), held=[-0.5]), []),
    "xlogy by zero": (
        origin("xlogy", operand(), operand("other", 0.0, zeros=1), value=-INF, held=[1.0, 0.0]),
        ["log-of-zero"],
    ),
    "xlogy by a negative": (
        origin("xlogy", operand(), operand("other", -3.0), held=[1.0, -3.0]),
        ["domain-error"],
    ),
    "xlogy of a negative": (origin("xlogy", operand(low=-3.0), operand("other"), held=[-3.0, 1.0]), []),
    "logit of one": (origin("logit", operand(high=1.0), value=INF, held=[1.0]), ["log-of-zero"]),
    "logit of zero": (origin("logit", operand(low=0.0, zeros=1), value=-INF, held=[0.0]), ["log-of-zero"]),
    "logit beyond one": (origin("logit", operand(high=1.5), held=[1.5]), ["domain-error"]),
    "logit within": (origin("logit", operand(high=0.9), held=[0.9]), []),
    "entropy of a negative": (origin("entr", operand(low=-0.1), value=-INF, held=[-0.1]), ["domain-error"]),
    "entropy of zero": (origin("entr", operand(low=0.0, zeros=1), held=[0.0]), []),
    "root of a negative": (origin("sqrt", operand(low=-1e-9), held=[-1e-9]), ["domain-error"]),
    "root of a negative, unknown": (origin("sqrt", operand(low=-1e-9), held=[None]), ["domain-error"]),
    "root of zero": (origin("sqrt", operand(low=0.0, zeros=1), held=[0.0]), []),
    "inverse root of zero": (
        origin("rsqrt", operand(low=0.0, zeros=1), value=INF, held=[0.0]),
        ["division-by-zero"],
    ),
    "inverse root of a negative": (origin("rsqrt", operand(low=-4.0), held=[-4.0]), ["domain-error"]),
    "inverse root of something": (origin("rsqrt", operand(), held=[0.5]), []),
    "negative base": (
        origin("pow", operand(low=-4.0), held=[-4.0], scalars={"exponent": 0.5}),
        ["domain-error"],
    ),
    "negative base, whole exponent": (
        origin("pow", operand(low=-4.0), held=[-4.0], scalars={"exponent": 3}),
        [],
    ),
    "zero to a negative power": (
        origin("pow", operand(low=0.0, zeros=1), value=INF, held=[0.0], scalars={"exponent": -1.5}),
        ["pow-at-zero"],
    ),
    "zero to a positive power": (
        origin("pow", operand(low=0.0, high=0.0), value=INF, held=[0.0], scalars={"exponent": 2}),
        [],
    ),
    "power by a tensor": (
        origin("pow", operand(low=-4.0), operand("exponent", 0.5), held=[-4.0, 0.5]),
        ["domain-error"],
    ),
    "power of nobody knows what": (origin("pow", operand(low=-4.0), held=[-4.0]), []),
    "power of infinity": (origin("pow", operand(low=-4.0), held=[-4.0], scalars={"exponent": INF}), []),
    "a power that is too large": (
        origin("pow", operand(high=1e30), value=INF, held=[1e30], scalars={"exponent": 2}),
        ["dtype-overflow"],
    ),
    "arccosine beyond one": (origin("acos", operand(high=1.5), held=[1.5]), ["domain-error"]),
    "arccosine below minus one": (origin("acos", operand(low=-1.5), held=[None]), ["domain-error"]),
    "arccosine of what is not known": (origin("acos"), []),
    "atanh of one": (origin("atanh", operand(high=1.0), value=INF, held=[1.0]), ["domain-error"]),
    "acosh below one": (origin("acosh", operand(low=0.5), held=[0.5]), ["domain-error"]),
    "lgamma of zero": (origin("lgamma", operand(low=0.0, zeros=1), value=INF, held=[0.0]), ["domain-error"]),
    "a name that only begins alike": (origin("logaddexp", operand(low=-1.0), operand("other")), []),
    "a singular matrix": (
        origin("linalg_inv_ex", operand("A"), matrix={"size": 3, "rank": 1, "smallest": 0.0, "largest": 3.0}),
        ["division-by-zero"],
    ),
    "a matrix of full rank": (origin("linalg_inv_ex", operand("A"), matrix={"size": 3, "rank": 3}), []),
    "a matrix of which nothing is known": (origin("linalg_inv_ex", operand("A")), []),
    "the determinant of a singular matrix": (
        origin("linalg_slogdet", operand("A"), value=-INF, matrix={"size": 3, "rank": 2}),
        ["log-of-zero"],
    ),
    "not positive definite": (
        origin("linalg_cholesky_ex", operand("A"), matrix={"size": 3, "rank": 3, "lowest": -0.1}),
        ["domain-error"],
    ),
    "positive definite": (origin("cholesky", operand("A"), matrix={"size": 3, "lowest": 0.1}), []),
    "a negative determinant": (origin("logdet", operand()), ["domain-error"]),
    "a determinant of zero": (origin("logdet", operand(), value=-INF), ["log-of-zero"]),
}


@pytest.mark.parametrize("name", CASES)
def test_which_edge_was_crossed(name: str) -> None:
    """A cause where the operand proves it, none where it does not."""
    event, causes = CASES[name]
    assert claimed(event) == causes


def test_log_of_zero_in_numbers() -> None:
    """How many zeros of how many, where, from what, and what did not happen."""
    logits = operand(low=-206.0, high=206.0)
    event = origin(
        "log",
        operand(low=0.0, high=1.0, zeros=3, abs_min_nonzero=1e-9, made_by=maker("softmax", logits)),
        value=-INF,
        held=[0.0],
    )
    claim = first(event)
    assert claim.why == "`log` received 3 exact zeros of 60, element [2, 0]"
    assert claim.evidence == (
        "they come from `softmax` of logits spread over 412",
        "the smallest other argument is 1.0e-9",
    )
    assert claim.rewrite.startswith("F.log_softmax(x, dim)")


def test_one_zero_and_nothing_else() -> None:
    """No plural, and no smallest argument where there is no other."""
    claim = first(origin("log", operand(low=0.0, high=0.0, zeros=1, numel=1), value=-INF, held=[0.0]))
    assert claim.why == "`log` received 1 exact zero of 1, element [2, 0]"
    assert claim.evidence == ()


@pytest.mark.parametrize(
    ("made", "rewrite"),
    [
        ("softmax", "F.log_softmax"),
        ("sigmoid", "F.logsigmoid"),
        ("exp", "torch.logsumexp"),
        ("relu", "torch.log(x.clamp_min(eps))"),
    ],
)
def test_the_pattern_around_a_logarithm(made: str, rewrite: str) -> None:
    """What made its argument decides on the safe form, also two operations back."""
    inner = operand(low=0.0, made_by=maker(made, operand()))
    for source in (inner, operand(low=0.0, made_by=maker("sum", inner))):
        assert first(LOG_OF_ZERO | {"operands": [source]}).rewrite.startswith(rewrite)


def test_what_a_shifted_logarithm_received() -> None:
    """The edge of `log1p` is -1, those of `logit` are 0 and 1: no zero is told where there was none."""
    for event, said in (
        (CASES["log1p of -1"][0], "`log1p` received -1, element [2, 0]"),
        (CASES["logit of one"][0], "`logit` received 1, element [2, 0]"),
    ):
        assert first(event).why == f"{said}: its result is infinite there"
    assert first(CASES["logit beyond one"][0]).why.startswith("`logit` received 1.5, element [2, 0]")


def test_the_other_operand_of_xlogy() -> None:
    """The range that is told is that of the argument of the logarithm."""
    claim = first(CASES["xlogy by a negative"][0])
    assert claim.why == "`xlogy` received a negative number: -3, element [2, 0]"
    assert claim.evidence == ("its argument ranges from -3 to 2",)


def test_a_root_of_a_difference() -> None:
    """E[x^2] - E[x]^2 is known by the subtraction, and its safe form is the variance."""
    part = operand(low=-1e-7, made_by=maker("sub", operand(low=1.0, high=9.0)))
    claim = first(origin("sqrt", part, held=[-1e-7]))
    assert claim.why == "`sqrt` received a negative number: -1.0e-7, element [2, 0]"
    assert claim.evidence == ("they come from a difference (`sub`) of numbers from 1 to 9",)
    assert "var" in claim.rewrite
    assert first(origin("sqrt", operand(low=-1.0), held=[-1.0])).rewrite == ""


def test_the_safe_form_belongs_to_the_function() -> None:
    """`acosh` is defined above one, the others between minus one and one."""
    assert first(CASES["acosh below one"][0]).rewrite == "torch.acosh(x.clamp_min(1 + eps))"
    assert first(CASES["atanh of one"][0]).rewrite == "torch.atanh(x.clamp(-1 + eps, 1 - eps))"
    assert "the edge of its domain" in first(CASES["atanh of one"][0]).why
    assert first(CASES["lgamma of zero"][0]).rewrite == "torch.lgamma(x.clamp_min(eps))"
    assert (
        first(CASES["acosh below one"][0]).why
        == "`acosh` received 0.5, element [2, 0], outside of its domain"
    )


def test_powers_in_numbers() -> None:
    """Base and exponent."""
    assert first(CASES["negative base"][0]).why == (
        "a negative number (-4) to the power of 0.5, element [2, 0]"
    )
    assert first(CASES["zero to a negative power"][0]).why == "zero to the power of -1.5, element [2, 0]"
