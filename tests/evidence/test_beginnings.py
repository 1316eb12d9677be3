"""Where it began outside of an operation's own doing: data, state, targets, hooks, custom code, updates."""

from __future__ import annotations

import pytest

from nanscope.evidence.facts import Facts
from nanscope.evidence.origin import as_origin
from nanscope.values import Element, Kind, Location, Phase, Result, Site
from tests.evidence.events import INF, NAN, Data, claimed, first, operand, origin

INPUT = operand("input", name="input", nan=1, posinf=2)
TARGET = operand("target", name="target", nan=1)
STATE = operand("self", 0.0, zeros=3, name="state:exp_avg_sq")
ADAM: Data = {"phase": "update", "optimizer": "Adam", "lr": 0.01, "settings": {"eps": 1e-8}, "location": None}
DIVIDED = (operand(), operand("other", 0.0, zeros=3))

CASES: dict[str, tuple[Data, list[str]]] = {
    "input": (origin("input", INPUT, phase="data"), ["bad-input"]),
    "parameter": (origin("parameter", operand(name="a.weight", nan=2), phase="init"), ["bad-parameter"]),
    "buffer": (origin("buffer", operand(name="norm.running_var", neginf=1), phase="init"), ["bad-buffer"]),
    "target": (origin("mse_loss", operand(), TARGET, phase="loss"), ["bad-target"]),
    "sound target": (
        origin("mse_loss", operand(high=1e30), TARGET | {"nan": 0}, value=INF),
        ["dtype-overflow"],
    ),
    "target in the update": (origin("mul", operand(), TARGET, phase="update"), []),
    "hook": (
        origin("to_unit_length", operand(), phase="backward", hook=True, inner="div"),
        ["gradient-hook"],
    ),
    "custom": (origin("Logarithm", operand(), custom=True, inner="given"), ["custom-function"]),
    "custom, by an operation": (
        origin("Logarithm", operand(low=0.0, zeros=1), value=-INF, held=[0.0], custom=True, inner="log"),
        ["custom-function", "log-of-zero"],
    ),
    "update": (origin("div", *DIVIDED, held=[0.0, 0.0], **ADAM), ["optimizer-update"]),
    "update at an infinite rate": (
        origin("add", operand(), operand("other"), **(ADAM | {"lr": INF})),
        ["bad-learning-rate", "optimizer-update"],
    ),
    "update at an absurd rate": (
        origin("add", operand(), operand("other"), **(ADAM | {"lr": 1e4})),
        ["bad-learning-rate", "optimizer-update"],
    ),
    "update at a rate of NaN": (
        origin("add", operand(), operand("other"), **(ADAM | {"lr": NAN})),
        ["bad-learning-rate", "optimizer-update"],
    ),
    "update, with the line of the user": (
        origin(
            "div", *DIVIDED, held=[0.0, 0.0], **(ADAM | {"location": {"line": 3}, "in_update_of": "Adam"})
        ),
        ["optimizer-update"],
    ),
    "clipping by the user": (
        origin("div", *DIVIDED, held=[0.0, 0.0], phase="update", location={"file": "a.py", "line": 3}),
        ["division-by-zero"],
    ),
    "an unknown phase": (origin("log", operand(low=0.0, zeros=1), held=[0.0], phase=None), ["log-of-zero"]),
}


@pytest.mark.parametrize("name", CASES)
def test_where_it_began(name: str) -> None:
    """The cause by who did it, then by what the operation shows."""
    event, causes = CASES[name]
    assert claimed(event) == causes


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("input", "the batch already held 1 NaN of 60, 2 +inf of 60 before the model used it"),
        ("parameter", "a.weight already held 2 NaN of 60 before the model used it"),
        ("buffer", "norm.running_var already held 1 -inf of 60 before the model used it"),
        ("target", "the target already held 1 NaN of 60 before the loss used it"),
        ("hook", "the hook `to_unit_length` made a finite gradient non-finite, element [2, 0]"),
        ("custom", "the user's function `Logarithm` returned it, element [2, 0]"),
        (
            "update",
            "`div` in the update of Adam made finite weights and gradients non-finite, element [2, 0]",
        ),
        ("update at an infinite rate", "the learning rate was inf"),
    ],
)
def test_in_words(name: str, why: str) -> None:
    """Who, what, how many."""
    assert first(CASES[name][0]).why == why


def test_details_of_an_update() -> None:
    """An eps of zero, and a state that was broken before, stand beside the operation that broke."""
    without = ADAM | {"settings": {"eps": 0}}
    claim = first(origin("div", *DIVIDED, held=[0.0, 0.0], **without))
    assert claim.evidence == ("its eps is 0", "`div` by 3 exact zeros of 60 (zero by zero), element [2, 0]")
    assert claim.rewrite == "leave eps at its default (1e-8)"
    assert first(CASES["update"][0]).rewrite == ""
    broken = first(origin("sqrt", STATE | {"nan": 1}, **ADAM))
    assert broken.evidence == ("its state:exp_avg_sq was already non-finite",)


@pytest.mark.parametrize(
    ("samples", "checked", "told"),
    [
        ([7], True, "row 7 of the batch is to blame: with another in its place the step is finite"),
        ([2, 5], True, "rows 2, 5 of the batch are to blame: with others in their place the step is finite"),
        ([7], None, "broken in row 7 of the batch"),
        ([2, 5], False, "broken in rows 2, 5 of the batch"),
    ],
)
def test_the_sample_in_words(samples: list[int], checked: bool | None, told: str) -> None:
    """Blamed only if the step was executed without it."""
    event = origin("log", operand(low=0.0, zeros=1), held=[0.0], samples=samples, samples_checked=checked)
    assert first(event).evidence[-1] == told


def test_many_rows_name_nobody() -> None:
    """Neither does no row."""
    for samples in ([], list(range(9))):
        claim = first(origin("log", operand(low=-1.0), held=[-1.0], samples=samples, samples_checked=True))
        assert not any("row" in line for line in claim.evidence)


def test_the_value() -> None:
    """Every field of the event has its place."""
    site = Site("head", Kind.OUTPUT)
    event = origin(
        "log",
        operand(low=0.0, zeros=3),
        value=-INF,
        held=[0.0, None],
        module="head",
        location={"file": "train.py", "line": 12, "function": "loss_fn"},
        samples=[2],
    )
    told = as_origin(Facts(event), site)
    assert told is not None
    assert (told.step, told.phase, told.module, told.site, told.op) == (4, Phase.FORWARD, "head", site, "log")
    assert told.location == Location("train.py", 12, "loss_fn")
    assert (told.operands[0].zeros, told.operands[0].shape, told.operands[0].abs_max) == (3, (20, 3), 2.0)
    assert told.result == Result((20, 3), "float32", 0, 0, 1)
    assert (told.samples, told.element) == ((2,), Element((2, 0), (0.0,)))


@pytest.mark.parametrize("wrong", [{"step": "4"}, {"step": None}, {"phase": "forwards"}, {"phase": 3}])
def test_an_event_that_makes_no_sense(wrong: Data) -> None:
    """No step, or no phase: no origin."""
    assert as_origin(Facts(origin("log") | wrong), None) is None
