"""NS308: an update that replaced a parameter shortly before the trouble."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nanscope.detectors.overshooting_update import overshooting_update
from nanscope.diagnosis import diagnose
from nanscope.run import Run
from nanscope.values import Kind
from tests.builders import diverged_run, make_run

NAN = np.nan
UPDATE = (Kind.UPDATE, "fc.weight", "l2")


def short(update: float, **parts: Any) -> Run:
    """Two steps and a NaN: step 0 leaves a weight of norm 60, of which `update` was just added."""
    ordinary: dict[str, Any] = {
        "inputs": [1.0, 1.2, 0.9, 1.0],
        "outputs": {"fc": [1.0, 1e9, NAN, NAN]},
        "weights": {"fc.weight": [60.0, 1e15, NAN, NAN]},
        "stats": {UPDATE: [update, 1e15, NAN, NAN]},
        "loss": [2.0, 1e18, NAN, NAN],
        "lr": 50.0,
    }
    return make_run(**(ordinary | parts))


def test_the_first_update_that_replaced_a_weight() -> None:
    """Its step, its norm, and that of what is left."""
    (found,) = overshooting_update(short(59.0))
    assert (found.step, str(found.site)) == (0, "fc.weight")
    assert (found.evidence["update"], found.evidence["norm"], found.evidence["lr"]) == (59.0, 60.0, 50.0)


@pytest.mark.parametrize(
    ("update", "parts"),
    [
        (0.4, {"weights": {"fc.weight": [0.5, 0.5, NAN, NAN]}, "stats": {UPDATE: [0.4, 0.1, NAN, NAN]}}),
        (1.0, {"stats": {UPDATE: [1.0, 1.0, NAN, NAN]}}),
        (59.0, {"outputs": {"fc": [1.0] * 4}, "weights": {"fc.weight": [60.0] * 4}, "loss": [2.0] * 4}),
    ],
    ids=["small numbers", "a small part", "no trouble"],
)
def test_what_is_none(update: float, parts: dict[str, Any]) -> None:
    """Near misses."""
    parts = {"stats": {UPDATE: [update, update, 1.0, 1.0]}} | parts
    assert not list(overshooting_update(short(update, **parts)))


def test_a_loss_out_of_line() -> None:
    """Near miss: the loss of one batch is a million times as large, so its data is to blame."""
    run = short(0.1)
    row = [*[1.0] * 5, 60.0, NAN, NAN]
    odd = {
        "inputs": [1.0] * 8,
        "outputs": {"fc": [1.0] * 6 + [NAN] * 2},
        "weights": {"fc.weight": row},
        "stats": {UPDATE: [*[0.01] * 5, 59.0, NAN, NAN]},
    }
    (found,) = overshooting_update(short(0.1, **odd, loss=[*[2.0] * 5, 2e6, NAN, NAN]))
    assert not found.evidence["ordinary"]
    (found,) = overshooting_update(short(0.1, **odd, loss=[*[2.0] * 5, 3.0, NAN, NAN]))
    assert found.evidence["ordinary"]
    assert not list(overshooting_update(run))


def test_an_input_out_of_line() -> None:
    """The rate is not blamed for what the data did."""
    (found,) = overshooting_update(short(59.0, inputs=[1.0, 1e4, 1.0, 1.0]))
    assert not found.evidence["ordinary"]
    assert "out of line" in found.message
    causes = {cause.id for cause in diagnose(short(59.0, inputs=[1.0, 1e4, 1.0, 1.0])).causes}
    assert "learning-rate-divergence" not in causes
    assert "learning-rate-divergence" in {cause.id for cause in diagnose(short(59.0)).causes}


def test_growth_tells_more() -> None:
    """A run that grows over forty steps has a finding of its own."""
    assert not list(overshooting_update(diverged_run()))
