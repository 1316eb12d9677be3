"""The test of a classifier against numpy in float64, healthy and poisoned."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nanscope.experiment import evaluate as evaluation
from nanscope.experiment.evaluate import evaluate


def _task() -> tuple[nn.Module, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.5))
    return model, torch.randn(50, 5, generator=generator), torch.randint(4, (50,), generator=generator)


@pytest.mark.parametrize("chunk", [7, 50, 4096])
def test_loss_and_accuracy_equal_a_float64_oracle(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean cross entropy and hits from numpy's own log-sum-exp, however the rows are divided."""
    monkeypatch.setattr(evaluation, "CHUNK", chunk)
    model, x, y = _task()
    tested = evaluate(model, x, y)
    weight, bias = (p.detach().double().numpy() for p in model.parameters())
    logits = x.double().numpy() @ weight.T + bias
    chosen = logits[np.arange(50), y.numpy()]
    assert tested.loss == pytest.approx(np.mean(np.log(np.exp(logits).sum(axis=1)) - chosen), rel=1e-6)
    assert tested.accuracy == np.mean(logits.argmax(axis=1) == y.numpy())
    assert np.sum(tested.confusion) == 50


def test_nan_logits_are_counted_as_class_0_with_a_nan_loss() -> None:
    """The blog post's ending: argmax of a row of NaN is 0, and the loss does not hide it."""
    model, x, y = _task()
    with torch.no_grad():
        model[0].weight.fill_(float("nan"))
    tested = evaluate(model, x, y)
    assert math.isnan(tested.loss)
    assert [sum(column) for column in zip(*tested.confusion, strict=True)] == [50, 0, 0, 0]
    assert tested.accuracy == float((y == 0).double().mean())


@pytest.mark.parametrize("training", [True, False])
def test_mode_gradients_and_random_state_are_left_alone(training: bool) -> None:
    """Testing uses evaluation mode and no gradient, and leaves neither behind."""
    model, x, y = _task()
    model.train(training)
    modes: list[tuple[bool, bool]] = []
    model.register_forward_pre_hook(
        lambda module, _: modes.append((module.training, torch.is_grad_enabled()))
    )
    before = torch.get_rng_state()
    evaluate(model, x, y)
    assert modes == [(False, False)]
    assert model.training is training
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before)
