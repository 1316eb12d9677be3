"""The backward pass, the update and `zero_grad` go around the mode of those who listen, and are noted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import StepLR
from torch.optim.optimizer import Optimizer

import nanscope
from nanscope.recording.rewind.listener import _Ears

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))


def _train(model: nn.Module, optimizer: Optimizer, steps: int) -> None:
    for _ in range(steps):
        loss = functional.mse_loss(model(X), X)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


@pytest.mark.parametrize("make", [SGD, Adam])
def test_only_the_loss_is_heard(
    make: Callable[..., Optimizer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a step the mode is asked about the loss, and nothing else."""
    heard: list[str] = []
    hear = _Ears.__torch_function__

    def told(self: _Ears, func: Any, *args: Any, **kwargs: Any) -> Any:
        heard.append(getattr(func, "__name__", str(func)))
        return hear(self, func, *args, **kwargs)

    monkeypatch.setattr(_Ears, "__torch_function__", told)
    model = nn.Linear(4, 4)
    optimizer = make(model.parameters(), lr=0.01)
    with nanscope.record(model, optimizer, tmp_path / "run.h5") as recorder:
        _train(model, optimizer, 6)
        steps = recorder._rewinder._memory.programs
    assert "mse_loss" in heard
    assert set(heard) == {"mse_loss"}
    assert [sum(event.is_backward for event in step.events) for step in steps] == [1] * 6
    assert [sum(event.optimizer is optimizer for event in step.events) for step in steps] == [1] * 6


def test_torch_has_its_own_functions_again(tmp_path: Path) -> None:
    """After the block, also where a scheduler has wrapped an optimizer's step within it."""
    model = nn.Linear(4, 4)
    optimizer = SGD(model.parameters(), lr=0.01)
    before = Tensor.backward, SGD.step
    with nanscope.record(model, optimizer, tmp_path / "run.h5"):
        assert Tensor.backward is not before[0]
        scheduler = StepLR(optimizer, 2)
        _train(model, optimizer, 3)
        scheduler.step()
    assert (Tensor.backward, SGD.step) == before
    weight = model.weight.detach().clone()
    _train(model, optimizer, 1)
    assert not torch.equal(model.weight, weight)


def test_an_optimizer_that_nobody_knew(tmp_path: Path) -> None:
    """The class of one that steps for the first time within the block gets its own step back, too."""
    model = nn.Linear(4, 4)
    optimizer, before = Adam(model.parameters()), Adam.step
    with nanscope.record(model, None, tmp_path / "run.h5") as recorder:
        _train(model, optimizer, 3)
        assert Adam.step is not before
        assert recorder.steps == 3
    assert Adam.step is before
