"""The sharpness against all eigenvalues of the dense Hessian, and spectra that are known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from nanscope.recording.rewind.sharpness import sharpness

X = torch.randn(12, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = torch.arange(12) % 4


def dense(loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Every eigenvalue of the Hessian, row by row, ascending, shape (parameters,)."""
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    rows = [torch.autograd.grad(each, parameters, retain_graph=True) for each in flat]
    hessian = torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows])
    return torch.linalg.eigvalsh(hessian)


def quadratic(spectrum: Sequence[float]) -> tuple[Tensor, Tensor]:
    """A loss whose Hessian has these eigenvalues, in no order and along no axis, and its parameter."""
    size = len(spectrum)
    generator = torch.Generator().manual_seed(size)
    turn, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    parameter = torch.randn(size, generator=generator, dtype=torch.float64).requires_grad_()
    return 0.5 * (torch.tensor(spectrum, dtype=torch.float64) * (turn @ parameter) ** 2).sum(), parameter


NETS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(3, 4),
    "tanh": lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4)),
    "normalised": lambda: nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.GELU(), nn.Linear(5, 4)),
}
LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "cross-entropy": lambda logits: cross_entropy(logits, Y),
    "squares": lambda logits: mse_loss(logits, 3 * X[:, :1].expand(-1, 4)),
    "saddle": lambda logits: logits.prod(dim=1).sum(),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("net", NETS)
def test_small_networks(net: str, loss: str) -> None:
    """The largest of all eigenvalues, with the iterations and tolerance that a recorded run has."""
    torch.manual_seed(0)
    model = NETS[net]().double()
    value = LOSSES[loss](model(X))
    parameters = list(model.parameters())
    expected = float(dense(value, parameters)[-1])
    found = sharpness(LOSSES[loss](model(X)), parameters)
    assert found is not None
    assert math.isclose(found.value, expected, rel_tol=0.02)
    assert found.residual < 0.3


SPECTRA: dict[str, list[float]] = {
    "one": [3.0],
    "spread": [0.01, 0.1, 1.0, 10.0],
    "the same throughout": [2.0] * 20,
    "as deep as high": [1.0, -1.0],
    "deeper than high": [-10.0, -3.0, 0.0, 2.0],
    "nearly as deep": [-9.9, 0.5, 10.0],
    "downwards only": [-5.0, -4.0, -0.5],
    "two alike at the top": [9.0, 9.0, 1.0],
    "one above many": [1.0] * 400 + [2.0],
    "one far above many": [1.0] * 400 + [50.0],
}


@pytest.mark.parametrize("name", SPECTRA)
def test_a_known_spectrum(name: str) -> None:
    """The largest eigenvalue, whatever the others are: not that of the largest size, nor that of the most."""
    loss, parameter = quadratic(SPECTRA[name])
    found = sharpness(loss, [parameter])
    assert found is not None
    assert math.isclose(found.value, max(SPECTRA[name]), rel_tol=0.01)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=12))
def test_never_above_the_largest(spectrum: list[float]) -> None:
    """And after as many products as there are dimensions, equal to it."""
    loss, parameter = quadratic(spectrum)
    quick = sharpness(loss, [parameter], iterations=2)
    exact = sharpness(loss, [parameter], iterations=60, tolerance=1e-10)
    assert quick is not None
    assert exact is not None
    assert quick.value <= max(spectrum) + 1e-9
    assert exact.value == pytest.approx(max(spectrum), abs=1e-6)


def test_what_gradient_descent_does_with_it() -> None:
    """At a rate just below 2 / sharpness a quadratic is descended, just above it grows without end."""
    loss, parameter = quadratic([0.3, 1.0, 7.0])
    found = sharpness(loss, [parameter])
    assert found is not None
    for factor, grows in ((0.97, False), (1.03, True)):
        value, at = quadratic([0.3, 1.0, 7.0])
        for _ in range(400):
            (gradient,) = torch.autograd.grad(value, at, retain_graph=True)
            with torch.no_grad():
                at -= factor * 2 / found.value * gradient
            value = _again(at, [0.3, 1.0, 7.0])
        assert (float(value.detach()) > float(loss.detach())) is grows


def _again(parameter: Tensor, spectrum: Sequence[float]) -> Tensor:
    """The loss of `quadratic` at a parameter."""
    size = len(spectrum)
    generator = torch.Generator().manual_seed(size)
    turn, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    return 0.5 * (torch.tensor(spectrum, dtype=torch.float64) * (turn @ parameter) ** 2).sum()


def test_a_flat_loss() -> None:
    """A linear loss: zero where its graph can be gone through twice, None where it cannot."""
    parameter = torch.ones(3, requires_grad=True)
    found = sharpness((parameter**2).sum() - (parameter * parameter).sum(), [parameter])
    assert found is not None
    assert found.value == 0.0
    assert sharpness(parameter.sum(), [parameter]) is None


class Once(torch.autograd.Function):
    """Squares, with a backward that cannot be differentiated."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        """Shape of `x`."""
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: object, grad: Tensor) -> Tensor:
        """Shape of `grad`."""
        return 2 * ctx.saved_tensors[0] * grad


def test_no_second_derivative() -> None:
    """None, and nothing raised."""
    parameter = torch.ones(3, requires_grad=True)
    assert sharpness(Once.apply(parameter).sum(), [parameter]) is None


def test_a_curvature_that_is_not_finite() -> None:
    """None where a product is NaN or infinite."""
    parameter = torch.zeros(3, requires_grad=True)
    assert sharpness((parameter**1.5).sum(), [parameter]) is None


def test_nobodys_generator_is_drawn_from() -> None:
    """And no gradient is left behind."""
    loss, parameter = quadratic([1.0, 2.0])
    before = torch.get_rng_state()
    assert sharpness(loss, [parameter]) == sharpness(loss, [parameter])
    assert torch.equal(torch.get_rng_state(), before)
    assert parameter.grad is None


def test_parameters_that_do_not_take_part() -> None:
    """Frozen, or of no consequence to the loss."""
    loss, parameter = quadratic([1.0, 2.0])
    frozen, idle = torch.ones(2), torch.ones(4, requires_grad=True)
    found = sharpness(loss, [frozen, parameter, idle])
    assert found is not None
    assert found.value == pytest.approx(2.0, rel=0.01)
