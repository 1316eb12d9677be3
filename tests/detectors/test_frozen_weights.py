"""NS305: parameters that do not move although they should."""

from __future__ import annotations

import numpy as np
import pytest

from nanscope.detectors.frozen_weights import VISIBLE, frozen_weights
from nanscope.run import Run
from nanscope.values import Severity
from tests.builders import collapsed_run, every, healthy_run, make_run

ROWS = 1000


def with_weight(norms: np.ndarray, grad: float | None = 0.5, lr: float | np.ndarray = 0.1) -> Run:
    """One parameter, measured every 100 steps."""
    grads = None if grad is None else {"fc.weight": np.full(ROWS, grad)}
    return make_run(
        outputs={"fc": np.ones(ROWS)}, weights={"fc.weight": every(100, norms)}, grads=grads, lr=lr
    )


@pytest.mark.parametrize(
    ("grad", "lr", "why"),
    [(0.5, 0.1, "optimizer"), (0.0, 0.1, "exactly zero"), (0.5, 0.0, "learning rate is zero")],
)
def test_a_constant_weight_and_its_reason(grad: float, lr: float, why: str) -> None:
    """Not given to the optimizer, cut off from the loss, or a zero learning rate."""
    (found,) = frozen_weights(with_weight(np.full(ROWS, 3.0), grad, lr))
    assert why in found.message
    assert (found.step, str(found.site)) == (0, "fc.weight")


def test_frozen_on_purpose() -> None:
    """Near miss: no gradient was ever recorded for it."""
    assert not list(frozen_weights(with_weight(np.full(ROWS, 3.0), None)))


def test_without_a_gradient() -> None:
    """A note, for it may be meant: others get gradients, this one none."""
    grads = {"fc.weight": [None] * ROWS, "head.weight": np.full(ROWS, 0.5)}
    weights = {"fc.weight": every(100, np.full(ROWS, 3.0))}
    (found,) = frozen_weights(make_run(weights=weights, grads=grads, lr=0.1))
    assert (found.severity, found.evidence["sites"]) == (Severity.NOTE, ("fc.weight",))
    assert "detach" in found.message


def test_a_rate_that_becomes_zero() -> None:
    """From its first zero on, also where weights are measured too rarely to tell."""
    moves = np.minimum(3 + np.arange(ROWS) / 100, 3 + 7.5)
    rates = np.where(np.arange(ROWS) < 750, 0.1, 0.0)
    (found,) = frozen_weights(with_weight(moves, lr=rates))
    assert (found.step, found.evidence["why"]) == (750, "the learning rate is zero")


def test_a_rate_that_ends_at_zero() -> None:
    """Near miss: a schedule that reaches zero in its last steps."""
    rates = np.where(np.arange(ROWS) < 900, 0.1, 0.0)
    assert not list(frozen_weights(with_weight(np.minimum(3 + np.arange(ROWS) / 100, 12.0), lr=rates)))


def test_too_slow_to_be_seen_is_not_frozen() -> None:
    """Near miss: the sum of all updates is below what a float32 norm can show."""
    assert not list(frozen_weights(with_weight(np.full(ROWS, 3.0), 1e-6)))


def test_a_converged_weight_is_not_frozen() -> None:
    """Near miss: every single update is lost in float32's rounding, though their sum would be seen."""
    rows, grad, lr, norm = 30_000, 3e-6, 0.1, 3.0
    assert VISIBLE * norm < rows * lr * grad
    weights = {"fc.weight": every(100, np.full(rows, norm))}
    assert not list(
        frozen_weights(make_run(weights=weights, grads={"fc.weight": np.full(rows, grad)}, lr=lr))
    )


def test_a_weight_that_moves() -> None:
    """Near miss: it moves by one unit in the last place per measurement."""
    norms = np.float32(3) + np.arange(ROWS, dtype=np.float32) / 100 * np.spacing(np.float32(3))
    assert not list(frozen_weights(with_weight(norms)))


def test_all_parameters_of_a_reason_are_one_finding() -> None:
    """Two constant parameters, one finding that names both."""
    weights = {name: every(100, np.full(ROWS, 1.0)) for name in ("a.weight", "b.weight")}
    grads = {name: np.zeros(ROWS) for name in weights}
    (found,) = frozen_weights(make_run(weights=weights, grads=grads, lr=0.1))
    assert found.evidence["sites"] == ("a.weight", "b.weight")


def test_the_stories_move() -> None:
    """Healthy and collapsed runs of the builders have weights that move."""
    assert not list(frozen_weights(healthy_run()))
    assert not list(frozen_weights(collapsed_run()))
