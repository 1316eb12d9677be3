"""NS101: which came first inside the step, and what does not count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanscope.detectors.first_nonfinite import first_nonfinite
from nanscope.values import Finding, Kind, Phase
from tests.builders import diverged_run, make_run

NAN, INF = np.nan, np.inf
BIRTH = 2


def story(**bad: Any) -> Finding | None:
    """Four steps of a two-layer model; names a series and the values it has from step 2 on."""

    def series(name: str, healthy: float = 1.0) -> list[float | None]:
        value = bad.get(name, healthy)
        return [healthy, bad.get(f"{name}_before", healthy), value, value]

    events = [{"kind": "state", "step": BIRTH, "parameters": {}, "buffers": {}} | bad.get("state", {})]
    run = make_run(
        inputs=series("x"),
        outputs={"a": series("a"), "b": series("b")},
        grad_outputs={"a": series("da"), "b": series("db")},
        weights={"a.weight": series("wa"), "b.weight": series("wb")},
        grads={"a.weight": series("ga"), "b.weight": series("gb")},
        loss=series("loss"),
        events=events,
    )
    return next(iter(first_nonfinite(run)), None)


ALL = {"b": NAN, "loss": NAN, "db": NAN, "da": NAN, "ga": NAN, "gb": NAN, "wa": NAN, "wb": NAN}


@pytest.mark.parametrize(
    ("bad", "phase", "site"),
    [
        (ALL | {"x": NAN, "a": NAN}, Phase.DATA, "model.input"),
        (ALL | {"a": INF}, Phase.FORWARD, "a.output"),
        (ALL, Phase.FORWARD, "b.output"),
        (ALL | {"b": 1.0}, Phase.LOSS, None),
        (ALL | {"b": 1.0, "loss": 1.0}, Phase.BACKWARD, "b.grad_output"),
        ({"gb": NAN, "da": NAN, "ga": NAN}, Phase.BACKWARD, "b.weight.grad"),
        ({"da": NAN, "ga": NAN}, Phase.BACKWARD, "a.grad_output"),
        ({"ga": INF}, Phase.BACKWARD, "a.weight.grad"),
        ({"wb": NAN}, Phase.UPDATE, "b.weight"),
    ],
)
def test_the_first_within_the_step(bad: dict[str, float], phase: Phase, site: str | None) -> None:
    """Data, forward in order, loss, backward in reverse order, update."""
    found = story(**bad)
    assert found is not None
    assert (found.step, found.phase, found.site and str(found.site)) == (BIRTH, phase, site)


def test_nan_and_infinity_are_told_apart() -> None:
    """The counts of the birth stand in message and evidence."""
    found = story(**(ALL | {"a": INF}))
    assert found is not None
    assert (found.evidence["nan"], found.evidence["inf"]) == (0, 1)
    assert "0 NaN and 1 infinite" in found.message


def test_poison_in_the_state_is_the_update_before() -> None:
    """Parameters that were bad before step 2 were written by the update of step 1."""
    found = story(**ALL, a=NAN, wa_before=None, state={"parameters": {"a.weight": [5, 1]}})
    assert found is not None
    assert (found.step, found.phase, found.evidence["name"]) == (1, Phase.UPDATE, "a.weight")
    assert (found.evidence["nan"], found.evidence["inf"]) == (5, 1)


def test_poison_after_a_finite_update_is_of_the_step_itself() -> None:
    """An optimizer that calls the model within its step: what step 1 left was finite."""
    found = story(**ALL, a=NAN, state={"parameters": {"a.weight": [5, 1]}})
    assert found is not None
    assert (found.step, found.phase, found.evidence["name"]) == (BIRTH, Phase.UPDATE, "a.weight")


@pytest.mark.parametrize(
    ("state", "name"),
    [
        ({"parameters": {"a.weight": [1, 0]}, "buffers": {}}, "a.weight"),
        ({"parameters": {}, "buffers": {"a.running_var": [0, 2]}}, "a.running_var"),
    ],
)
def test_poison_from_the_start(state: dict[str, Any], name: str) -> None:
    """A bad parameter, or the bad buffer of the first bad module, at the first step is the init phase."""
    run = make_run(
        outputs={"a": [NAN, NAN], "b": [NAN, NAN]},
        loss=[NAN, NAN],
        events=[{"kind": "state", "step": 0} | state],
    )
    (found,) = first_nonfinite(run)
    assert (found.phase, found.evidence["name"]) == (Phase.INIT, name)


def test_a_buffer_downstream_is_a_consequence() -> None:
    """A buffer of a later module that the same step's forward poisoned is not blamed."""
    events = [{"kind": "state", "step": 0, "parameters": {}, "buffers": {"b.running_var": [0, 2]}}]
    run = make_run(outputs={"a": [NAN, NAN], "b": [NAN, NAN]}, loss=[NAN, NAN], events=events)
    (found,) = first_nonfinite(run)
    assert (found.phase, str(found.site)) == (Phase.FORWARD, "a.output")


def test_missing_is_not_nan() -> None:
    """Near miss: what was not measured is no NaN."""
    assert not list(first_nonfinite(make_run(outputs={"a": [1, None, None]}, loss=[1, None, 1])))


def test_an_overflowing_norm_is_not_a_nonfinite_value() -> None:
    """Near miss: a norm stored as the largest float32 is finite."""
    top = np.finfo(np.float32).max
    assert not list(first_nonfinite(make_run(outputs={"a": [1, top, top]}, loss=[1, 1, 1])))


def test_an_attention_mask_is_not_a_finding() -> None:
    """Near miss: infinities that stand in an output from the first step on, with a finite loss."""
    stats = {(Kind.OUTPUT, "mask", "inf_count"): [7, 7, 7], (Kind.OUTPUT, "mask", "nan_count"): [0, 0, 0]}
    run = make_run(outputs={"mask": [INF] * 3, "out": [1, 1, 1]}, loss=[1, 1, 1], stats=stats)
    assert not list(first_nonfinite(run))


def test_the_last_of_two_episodes_is_the_divergence() -> None:
    """A NaN that healed is not the origin of a later one that stayed."""
    bad = [1, NAN, 1, 1, NAN, NAN]
    (found,) = first_nonfinite(make_run(outputs={"a": bad}, loss=bad))
    assert found.step == 4


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(1, 20_000), st.integers(0, 3))
def test_the_step_is_exact_anywhere_in_a_long_run(birth: int, gap: int) -> None:
    """Against a scan in numpy: bucket borders, single rows and cadences make no difference."""
    loss = np.ones(20_001 + gap, np.float32)
    loss[birth:] = NAN
    (found,) = first_nonfinite(make_run(outputs={"a": loss}, loss=loss))
    assert found.step == int(np.flatnonzero(~np.isfinite(loss))[0])


def test_the_real_story() -> None:
    """Infinite logits: the last layer, forward, and log(0) has no part in it."""
    (found,) = first_nonfinite(diverged_run(birth=1440))
    assert (found.step, found.phase, str(found.site)) == (1440, Phase.FORWARD, "final_layer.output")
    assert (found.evidence["nan"], found.evidence["inf"], found.evidence["before_loss"]) == (0, 10, True)
