"""NS304: gradients that die out on the way to the first layer."""

from __future__ import annotations

import numpy as np
import pytest

from nanscope.detectors.vanishing_gradient import vanishing_gradient
from nanscope.run import Run
from tests.builders import healthy_run, make_run

ROWS = 400


def deep(ratio: float, loss: np.ndarray, layers: int = 5) -> Run:
    """Gradient norms that fall by `ratio` from the last layer to the first."""
    noise = np.exp(np.random.default_rng(0).normal(0, 0.5, ROWS))
    names = [f"fc{i}" for i in range(layers)]
    grads = {f"{n}.weight": noise * ratio ** (1 - i / (layers - 1)) for i, n in enumerate(names)}
    return make_run(outputs={name: np.ones(ROWS) for name in names}, grads=grads, loss=loss)


def test_a_deep_sigmoid_network() -> None:
    """Eight orders of magnitude, and the loss stays."""
    (found,) = vanishing_gradient(deep(1e-8, np.full(ROWS, 2.3)))
    assert str(found.site) == "fc0.weight.grad"
    assert found.evidence["ratio"] == pytest.approx(1e-8, rel=0.01)


def test_small_first_gradients_of_a_model_that_learns() -> None:
    """Near miss: the same gradients, and a loss that falls."""
    assert not list(vanishing_gradient(deep(1e-8, np.linspace(2.3, 0.5, ROWS))))


def test_a_hundredfold_is_ordinary() -> None:
    """Near miss: first layers often have smaller gradients."""
    assert not list(vanishing_gradient(deep(1e-2, np.full(ROWS, 2.3))))


def test_zero_is_cut_off_not_vanished() -> None:
    """Near miss: exactly zero is a dead layer's gradient."""
    assert not list(vanishing_gradient(deep(0.0, np.full(ROWS, 2.3))))


def test_healthy() -> None:
    """Equal gradients."""
    assert not list(vanishing_gradient(healthy_run()))
