"""Reductions: over nothing, over one sample, over a mask that leaves nothing; and normalisations."""

from __future__ import annotations

import pytest

from tests.evidence.events import INF, MAX, Data, claimed, first, operand, origin

EMPTY = operand(numel=0, shape=[0], min="nan", max="nan", abs_max="nan")
MASKED = {"numel": 3, "neginf": 3, "posinf": 0, "nan": 0, "min": -INF, "max": -INF}
TARGET = operand("target", -100.0, -100.0, dtype="int64", numel=4, name="target")
NLL = {"ignore_index": -100, "reduction": 1}
NORM = operand("input", 2.0, 2.0)


def variance(low: float) -> Data:
    """A running variance that is as low as this."""
    return operand("running_var", low, 1.0, name="norm.running_var")


CASES: dict[str, tuple[Data, list[str]]] = {
    "mean of nothing": (origin("mean", EMPTY), ["empty-reduction"]),
    "mean of an empty row": (origin("mean", operand(), row={"numel": 0}), ["empty-reduction"]),
    "mean": (origin("mean", operand(high=MAX), value=INF), ["dtype-overflow"]),
    "a loss of nothing": (origin("mse_loss", EMPTY, EMPTY | {"role": "target"}), ["empty-reduction"]),
    "binary cross-entropy of nothing": (origin("binary_cross_entropy", EMPTY), ["empty-reduction"]),
    "every target ignored": (origin("nll_loss", operand(), TARGET, scalars=NLL), ["empty-reduction"]),
    "one target not ignored": (origin("nll_loss", operand(), TARGET | {"max": 2}, scalars=NLL), []),
    "weights that sum to zero": (
        origin(
            "nll_loss", operand(), TARGET | {"max": 2}, operand("weight", 0.0, zeros=3, numel=4), scalars=NLL
        ),
        ["division-by-zero"],
    ),
    "weights": (
        origin("nll_loss", operand(), TARGET | {"max": 2}, operand("weight", numel=4), scalars=NLL),
        [],
    ),
    "deviation of one": (
        origin("std", operand(), row={"numel": 1}, scalars={"correction": 1}),
        ["degenerate-reduction"],
    ),
    "deviation of one, default": (origin("std", operand(numel=1)), ["degenerate-reduction"]),
    "deviation of one, no correction": (
        origin("std", operand(), row={"numel": 1}, scalars={"correction": 0}),
        [],
    ),
    "deviation of two": (origin("std", operand(), row={"numel": 2}, scalars={"correction": 1}), []),
    "variance of two, twice corrected": (
        origin("var", operand(), row={"numel": 2}, scalars={"correction": 2}),
        ["degenerate-reduction"],
    ),
    "variance of nothing": (origin("var_mean", EMPTY), ["empty-reduction"]),
    "variance of what is too large": (
        origin("var", operand(high=1e30), row={"numel": 9}, value=INF),
        ["dtype-overflow"],
    ),
    "softmax of a masked row": (origin("softmax", operand(neginf=3), row=MASKED), ["fully-masked-softmax"]),
    "softmax of a row with one key": (origin("softmax", operand(neginf=2), row=MASKED | {"neginf": 2}), []),
    "log of a softmax of a masked row": (
        origin("log_softmax", operand(neginf=3), row=MASKED),
        ["fully-masked-softmax"],
    ),
    "softmax with +inf": (
        origin("softmax", operand(posinf=1), row=MASKED | {"neginf": 0, "posinf": 1}),
        ["inf-minus-inf"],
    ),
    "attention that sees nothing": (
        origin(
            "scaled_dot_product_attention",
            operand("query"),
            operand("attn_mask", 0.0, 0.0, zeros=9, dtype="bool"),
        ),
        ["fully-masked-softmax"],
    ),
    "attention with large scores": (
        origin("scaled_dot_product_attention", operand("query", high=1e30), operand("key", high=1e30)),
        ["dtype-overflow"],
    ),
    "normalisation without eps": (origin("layer_norm", NORM, scalars={"eps": 0.0}), ["division-by-zero"]),
    "normalisation": (origin("layer_norm", NORM, scalars={"eps": 1e-5}), []),
    "normalisation of what is too large": (
        origin("layer_norm", operand("input", high=1e30), scalars={"eps": 1e-5}),
        ["dtype-overflow"],
    ),
    "a negative variance": (
        origin("batch_norm", NORM, variance(-3.0), scalars={"eps": 1e-5, "training": False}),
        ["domain-error"],
    ),
    "a negative variance that eps makes good": (
        origin("batch_norm", NORM, variance(-1e-7), scalars={"eps": 1e-5, "training": False}),
        [],
    ),
    "a negative variance that is not used": (
        origin("batch_norm", NORM, variance(-3.0), scalars={"eps": 1e-5, "training": True}),
        [],
    ),
    "CTC": (origin("ctc_loss", operand("log_probs"), value=INF), ["bad-target"]),
}


@pytest.mark.parametrize("name", CASES)
def test_what_was_reduced(name: str) -> None:
    """A cause where the operands prove it, none where they do not."""
    event, causes = CASES[name]
    assert claimed(event) == causes


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("mean of nothing", "`mean` over no element at all"),
        ("every target ignored", "all 4 targets are -100, which the loss ignores: the mean of nothing"),
        (
            "weights that sum to zero",
            "the weights of the targets in this batch sum to zero: 3 weights of 4 are zero",
        ),
        (
            "deviation of one",
            "`std` over one element with correction 1 divides by zero, element [2, 0]",
        ),
        (
            "variance of two, twice corrected",
            "`var` over 2 elements with correction 2 divides by zero, element [2, 0]",
        ),
        (
            "softmax of a masked row",
            (
                "`softmax` of a row that is masked throughout: all 3 positions of the row are -inf, "
                "element [2, 0]"
            ),
        ),
        (
            "attention that sees nothing",
            (
                "`scaled_dot_product_attention` of a row that is masked throughout: a row of the mask "
                "leaves nothing, element [2, 0]"
            ),
        ),
        (
            "normalisation without eps",
            "`layer_norm` with eps=0 of numbers all alike divides by a variance of zero, element [2, 0]",
        ),
        (
            "a negative variance",
            "`batch_norm` takes the root of a running variance that is as low as -3",
        ),
    ],
)
def test_in_numbers(name: str, why: str) -> None:
    """How many of how many, and where."""
    assert first(CASES[name][0]).why == why


def test_the_safe_form_of_a_loss() -> None:
    """CTC has an option of its own."""
    assert first(CASES["CTC"][0]).rewrite == "F.ctc_loss(..., zero_infinity=True)"
