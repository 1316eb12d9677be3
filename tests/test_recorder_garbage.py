"""What a recorder leaves in memory: nothing of a step that is over, nothing at all when its block is left."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import nanscope


class Reused(nn.Module):
    """One layer that is called twice, with a write into what it gave: no step of it is an ordinary one."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, 3)."""
        return self.head(self.layer(self.layer(x).relu_()))


class Wide(nn.Module):
    """Outputs that are too large to be kept: they are measured at once."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.head = nn.Linear(6, 40_000), nn.Linear(40_000, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, 3)."""
        return self.head(torch.tanh(self.wide(x)))


MODELS: list[Callable[[], nn.Module]] = [
    lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)),
    Reused,
    Wide,
]


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, *, bad: int = -1) -> None:
    for k in range(steps):
        optimizer.zero_grad()
        loss = cross_entropy(model(torch.ones(2, 6)), torch.tensor([0, 1]))
        (loss * float("nan") if k == bad else loss).backward()
        optimizer.step()


def _nodes() -> int:
    """Nodes of autograd's graphs that Python knows."""
    gc.collect()
    return sum(type(each).__name__.endswith("Backward0") for each in gc.get_objects())


@pytest.mark.parametrize("make", MODELS)
def test_no_graph_outlives_its_step(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    """Hooks hold what they write to, and that must not hold the graph that they hang on."""
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before = _nodes()
    with nanscope.record(model, optimizer, tmp_path / "run.h5"):
        _train(model, optimizer, 8)
        assert _nodes() == before


@pytest.mark.parametrize("bad", [-1, 3])
@pytest.mark.parametrize("make", MODELS)
def test_nothing_is_kept_when_the_block_is_left(
    make: Callable[[], nn.Module], bad: int, tmp_path: Path
) -> None:
    """Neither the model nor the recorder, whether or not a step was executed again."""

    def record() -> tuple[weakref.ref[nn.Module], weakref.ref[nanscope.Recorder]]:
        model = make()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        with nanscope.record(model, optimizer, tmp_path / "run.h5") as recorder:
            _train(model, optimizer, 6, bad=bad)
        return weakref.ref(model), weakref.ref(recorder)

    model, recorder = record()
    gc.collect()
    assert (model(), recorder()) == (None, None)
