"""Ordinary training loops under the recorder, and the events that came of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

import nanscope
from nanscope.run import Run

Data = dict[str, Any]
Batch = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]

ROWS, FEATURES = 8, 3


def batches(count: int, seed: int = 1) -> list[Batch]:
    """Ordinary batches: inputs (8, 3) of unit variance, targets (8, 2) between 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(ROWS, FEATURES, generator=generator), torch.rand(ROWS, 2, generator=generator))
        for _ in range(count)
    ]


def net(*layers: nn.Module) -> nn.Sequential:
    """A small network of which the layers given are the last."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(FEATURES, 4), nn.Tanh(), nn.Linear(4, 2), *layers)


def train(model: nn.Module, optimizer: Optimizer, loss: Loss, data: Sequence[Batch]) -> None:
    """One step per batch."""
    for x, y in data:
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()


def recorded(
    path: Path,
    model: nn.Module,
    loss: Loss,
    data: Sequence[Batch],
    optimizer: Optimizer | None = None,
    **options: Any,
) -> Run:
    """The run of such a training, by plain gradient descent if no optimizer is given."""
    optimizer = SGD(model.parameters(), lr=0.05) if optimizer is None else optimizer
    with nanscope.record(model, optimizer, path, **options):
        train(model, optimizer, loss, data)
    return nanscope.open_run(path)


def only(run: Any, kind: str) -> Data:
    """The one event of this kind."""
    (event,) = run.events_of(kind)
    return dict(event)


def squares(output: Tensor, y: Tensor) -> Tensor:
    """Mean squared error."""
    return (output - y).square().mean()
