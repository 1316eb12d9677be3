"""Training tests as anybody writes them. With `pytest --nanscope` the second fails, though its assert holds.

The message names the logarithm, its line, what went into it and a safe way to write it.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn


class Classifier(nn.Module):
    """Gives the logarithms of probabilities, the naive way or the safe one."""

    def __init__(self, *, naive: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)
        self.naive = naive

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, 3)."""
        logits = self.layer(x)
        if self.naive:
            return torch.log(torch.softmax(logits, dim=1))
        return torch.log_softmax(logits, dim=1)


def train(model: Classifier, scale: float) -> Classifier:
    """A few steps on inputs of some size."""
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        loss = nn.functional.nll_loss(model(scale * torch.randn(8, 2)), torch.randint(0, 3, (8,)))
        loss.backward()
        optimizer.step()
    return model


def test_naive_on_small_inputs() -> None:
    """Nothing underflows."""
    assert train(Classifier(naive=True), 1.0).layer.weight.isfinite().all()


def test_naive_on_large_inputs() -> None:
    """The shape is right, but a probability was exactly 0: this is what nanscope is for."""
    assert train(Classifier(naive=True), 1e3).layer.weight.shape == (3, 2)


def test_safe_on_large_inputs() -> None:
    """The logarithm of softmax in one go has no such trouble."""
    assert train(Classifier(naive=False), 1e3).layer.weight.shape == (3, 2)


@pytest.mark.nanscope(allow=("inf", "nan"))
def test_that_knows_what_it_does() -> None:
    """The marker lets pass what is meant."""
    assert not train(Classifier(naive=True), 1e3).layer.weight.isfinite().all()


def test_that_wants_it(nanscope: Any) -> None:
    """The fixture asserts that it happens, and why."""
    with nanscope.expect_nonfinite(cause="log-of-zero"):
        train(Classifier(naive=True), 1e3)
