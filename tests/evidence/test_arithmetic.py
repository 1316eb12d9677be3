"""Quotients, products, sums and exponentials: too large, by zero, or infinities that meet."""

from __future__ import annotations

import pytest

from tests.evidence.events import INF, MAX, Data, claimed, first, maker, operand, origin

ZERO = operand("other", 0.0, zeros=2)

CASES: dict[str, tuple[Data, list[str]]] = {
    "quotient by zero": (origin("div", operand(), ZERO, value=INF, held=[1.0, 0.0]), ["division-by-zero"]),
    "zero by zero": (origin("div", operand(), ZERO, held=[0.0, 0.0]), ["division-by-zero"]),
    "by zero, element unknown": (origin("div", operand(), ZERO, held=[None, None]), ["division-by-zero"]),
    "by something very small": (
        origin("div", operand(high=1e30), operand("other", 1e-30), value=INF, held=[1e30, 1e-30]),
        ["dtype-overflow"],
    ),
    "infinity by infinity": (
        origin("div", operand(posinf=1), operand("other", posinf=1), held=[INF, INF]),
        ["inf-minus-inf"],
    ),
    "by the constant zero": (
        origin("div", operand(), value=INF, held=[1.0], scalars={"other": 0.0}),
        ["division-by-zero"],
    ),
    "by a constant": (
        origin("div", operand(high=MAX), value=INF, held=[MAX], scalars={"other": 0.1}),
        ["dtype-overflow"],
    ),
    "reciprocal of zero": (
        origin("reciprocal", operand(low=0.0, zeros=1), value=INF, held=[0.0]),
        ["division-by-zero"],
    ),
    "one over x": (
        origin("div", operand(low=0.0, zeros=1), value=INF, held=[0.0], call="torch.Tensor.__rtruediv__"),
        ["division-by-zero"],
    ),
    "reciprocal of something": (origin("reciprocal", operand(), held=[0.5]), []),
    "remainder by zero": (origin("remainder", operand(), ZERO, held=[1.0, 0.0]), ["division-by-zero"]),
    "update by zero": (
        origin("addcdiv", operand(), operand("tensor1"), operand("tensor2", 0.0, zeros=1), held=[1, 0, 0]),
        ["division-by-zero"],
    ),
    "exp of 90": (origin("exp", operand(high=90.0), value=INF, held=[90.0]), ["exp-overflow"]),
    "exp of 80": (origin("exp", operand(high=80.0), value=INF, held=[80.0]), []),
    "exp of an infinity that is meant": (origin("exp", operand(posinf=1), value=INF, held=[INF]), []),
    "exp of 90 in float64": (
        origin("exp", operand(high=90.0), value=INF, held=[90.0], result={"dtype": "float64"}),
        [],
    ),
    "exp of 12 in float16": (
        origin("exp", operand(high=12.0), value=INF, held=[12.0], result={"dtype": "float16"}),
        ["exp-overflow"],
    ),
    "exp2 of 127": (origin("exp2", operand(high=126.0), value=INF, held=[126.0]), []),
    "exp2 of 129": (origin("exp2", operand(high=129.0), value=INF, held=[129.0]), ["exp-overflow"]),
    "sinh of -90": (origin("sinh", operand(low=-90.0), value=-INF, held=[-90.0]), ["exp-overflow"]),
    "zero times infinity": (
        origin("mul", operand(low=0.0, zeros=1), operand("other", posinf=1), held=[0.0, INF]),
        ["zero-times-inf"],
    ),
    "zero times the constant infinity": (
        origin("mul", operand(low=0.0, zeros=1), held=[0.0], scalars={"other": INF}),
        ["zero-times-inf"],
    ),
    "one times infinity": (
        origin("mul", operand(), operand("other", posinf=1), value=INF, held=[1.0, INF]),
        [],
    ),
    "a product": (
        origin("mul", operand(high=1e30), operand("other", high=1e30), value=INF, held=[1e30, 1e30]),
        ["dtype-overflow"],
    ),
    "a matrix product, infinite": (
        origin("addmm", operand(), operand("mat1", high=1e26), operand("mat2", high=1e27), value=-INF),
        ["dtype-overflow"],
    ),
    "a matrix product, NaN by infinite parts": (
        origin("mm", operand(high=1e26), operand("mat2", high=1e27)),
        ["dtype-overflow"],
    ),
    "a matrix product, NaN of ordinary numbers": (origin("mm", operand(), operand("mat2")), []),
    "a matrix product of the largest of nothing": (
        origin("addmm", operand(), operand("mat1", neginf=6, made_by=maker("amax", operand(neginf=30)))),
        ["empty-reduction"],
    ),
    "a matrix product of infinities": (
        origin("addmm", operand(), operand("mat1", neginf=6, made_by=maker("where", operand()))),
        ["inf-minus-inf"],
    ),
    "a matrix product with a meant infinity": (
        origin("addmm", operand(), operand("mat1", neginf=6), value=-INF),
        [],
    ),
    "the norm of no weight": (
        origin("weight_norm_interface", operand("v", low=0.0, zeros=9), operand("g"), held=[0.0, None]),
        ["division-by-zero"],
    ),
    "infinity minus infinity": (
        origin("sub", operand(posinf=1), operand("other", posinf=1), held=[INF, INF]),
        ["inf-minus-inf"],
    ),
    "a sum of opposite infinities": (
        origin("sum", operand(posinf=1, neginf=1), held=[None]),
        ["inf-minus-inf"],
    ),
    "a sum": (origin("sum", operand(high=MAX), value=INF, held=[None]), ["dtype-overflow"]),
    "a sum of ordinary numbers": (origin("sum", operand(), value=INF, held=[None]), []),
    "an infinity of ordinary numbers that nobody knows": (origin("polar_express", operand(), value=INF), []),
    "a sum with an infinity": (origin("sum", operand(posinf=1), value=INF, held=[None]), []),
    "a cast": (
        origin("to", operand(high=1e6), value=INF, held=[1e6], result={"dtype": "float16"}),
        ["dtype-overflow"],
    ),
    "a step of infinite size": (origin("add", operand(), value=INF, scalars={"alpha": -INF}), []),
    "an operation that nobody knows": (origin("polar_express", operand(), held=[1.0]), []),
    "no operand at all": (origin("rand"), []),
}


@pytest.mark.parametrize("name", CASES)
def test_what_went_wrong(name: str) -> None:
    """A cause where the operands prove it, none where they do not."""
    event, causes = CASES[name]
    assert claimed(event) == causes


def test_a_quotient_in_numbers() -> None:
    """How many zeros, which, and what made the divisor (not what made the dividend)."""
    upper = operand(made_by=maker("exp", operand(low=-5.0, high=0.0)))
    lower = operand("other", 0.0, zeros=2, made_by=maker("sum", operand(low=0.0, high=3.0, zeros=7)))
    claim = first(origin("div", upper, lower, held=[0.0, 0.0]))
    assert claim.why == "`div` by 2 exact zeros of 60 (zero by zero), element [2, 0]"
    assert claim.evidence == ("they come from `sum` of numbers from 0 to 3, 7 zeros of 60",)
    assert first(CASES["by the constant zero"][0]).why == "`div` by the constant zero, element [2, 0]"


def test_an_exponential_in_numbers() -> None:
    """What it received and from where on that is too much."""
    claim = first(CASES["exp of 90"][0])
    assert claim.why == ("`exp` received 90, element [2, 0]; its result is infinite in float32 above 88.7")
    assert claim.evidence == ("its argument ranges from 0.5 to 90",)
    assert "logsumexp" in claim.rewrite
    assert "above 11.1" in first(CASES["exp of 12 in float16"][0]).why


def test_a_product_in_numbers() -> None:
    """Every operand by its name, and the limit."""
    hidden, weight = operand("mat1", high=1.4e26), operand("mat2", high=1.5e27, name="last.weight")
    claim = first(origin("mm", hidden, weight, value=INF))
    assert claim.why == (
        "`mm` of mat1 up to 1.4e26 and last.weight up to 1.5e27 makes more than 3.4e38, the largest number "
        "of float32"
    )
    assert "65,504, the largest number of float16" in first(CASES["a cast"][0]).why


def test_where_an_infinity_came_from() -> None:
    """It passed through an operation before zero met it."""
    inner = operand("other", posinf=1, made_by=maker("neg", operand(neginf=1, role="self")))
    claim = first(origin("mul", operand(low=0.0, zeros=1), inner, held=[0.0, INF]))
    assert claim.why == "`mul` of zero and infinity, element [2, 0]"
    assert claim.evidence == ("the infinity passed through `neg`",)
