"""Gradient norms of single samples, against a backward pass for each of them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

import nanscope
from nanscope.recording.samples import heaviest, sample_norms


def alone(layers: list[nn.Linear], model: nn.Module, x: Tensor, y: Tensor, row: int) -> float:
    """The norm of one sample's part of the gradient of the mean loss, in float64."""
    model.zero_grad()
    logits = model(x[row : row + 1]).flatten(0, -2)
    (F.cross_entropy(logits, y[row : row + 1].flatten(), reduction="sum") / y.numel()).backward()
    weights = [layer.weight.grad for layer in layers]
    return math.sqrt(sum(float(g.double().square().sum()) for g in weights if g is not None))


@pytest.mark.parametrize("shape", [(6,), (6, 5)])
def test_each_sample_by_itself(shape: tuple[int, ...]) -> None:
    """Rows and sequences: as if each sample had been alone."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 9), nn.Tanh(), nn.Linear(9, 4))
    layers = [model[0], model[2]]
    x, y = torch.randn(*shape, 7), torch.randint(4, shape)
    expected = [alone(layers, model, x, y, row) for row in range(6)]
    hidden = model[1](model[0](x)).detach().requires_grad_()
    first, last = model[0](x), model[2](hidden)
    first.retain_grad(), last.retain_grad()
    F.cross_entropy(last.flatten(0, -2), y.flatten()).backward()
    model[1](first).backward(hidden.grad)
    found = sample_norms([(first.grad, x), (last.grad, hidden)], 6)
    assert found == pytest.approx(expected, rel=1e-5)


def test_what_does_not_fit_is_left_out() -> None:
    """Other batch sizes, images, and nothing at all."""
    d, x = torch.ones(3, 4), torch.ones(3, 5)
    assert sample_norms([], 3) is None
    assert sample_norms([(d, x)], 2) is None
    assert sample_norms([(torch.ones(3, 2, 2, 4), torch.ones(3, 2, 2, 5))], 3) is None
    assert sample_norms([(d, x), (torch.ones(6, 4), torch.ones(6, 5))], 3) == pytest.approx([20**0.5] * 3)


def test_the_heaviest_come_first() -> None:
    """Non-finite ones before all others, then by size."""
    rows, norms = heaviest(np.array([1.0, 5.0, np.nan, 3.0]), 3)
    assert rows == [2, 1, 3]
    assert norms[1:] == [5.0, 3.0]


@pytest.mark.parametrize("width", [16, 80])
def test_the_culprit_is_named(width: int, tmp_path: Path) -> None:
    """One infinite sample in the middle of a training: its row is the first in the run file's event."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with nanscope.record(model, optimizer, tmp_path / "run.h5") as recorder:
        for number in range(45):
            x, y = torch.randn(12, 8), torch.randint(4, (12,))
            if number == 40:
                x[7, 3] = torch.inf
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        kept = recorder.sample_norms()
    (event,) = nanscope.open_run(tmp_path / "run.h5").events_of("samples")
    assert (event["step"], event["rows"][0]) == (40, 7)
    assert not math.isfinite(event["norms"][0])
    assert set(range(1, 10)) <= kept.keys()
    assert all(len(norms) == 12 for norms in kept.values())
