"""Small trainings, their states through a file and back, and all of their bits."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

from nanscope.recording.state import capture
from nanscope.store.snapshots.reader import Snapshot
from nanscope.store.snapshots.slots import slot_bytes_for
from tests.models import convolutional
from tests.store.snapshot_files import SlotFile

Maker = Callable[[nn.Module], Sequence[Optimizer]]


def stored(folder: Path, model: nn.Module, optimizers: Any = (), batch: Any = None) -> Snapshot:
    """The state, put into a file and read again."""
    pieces, meta = capture(model, optimizers, batch)
    file = SlotFile(folder / "slots", 1, slot_bytes_for(pieces, meta, spare=0))
    with file.writing() as writer:
        assert writer.put(0, 0.0, pieces, meta)
    return file.read()[0]


def bits(tensor: Tensor) -> bytes:
    """Every bit of a tensor."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def everything(model: nn.Module, optimizers: Sequence[Optimizer]) -> list[Any]:
    """All bits of a training: model, optimizer state and settings, generators."""

    def plain(value: Any) -> Any:
        if isinstance(value, Tensor):
            return str(value.dtype), tuple(value.shape), bits(value)
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    parts = [*model.named_parameters(), *model.named_buffers()]
    return [
        plain(parts),
        [plain(optimizer.state_dict()) for optimizer in optimizers],
        bits(torch.get_rng_state()),
        random.getstate(),
        [str(part) for part in np.random.get_state()],  # noqa: NPY002 - the one under test
    ]


class Awkward(nn.Module):
    """Dropout, running statistics, buffers of odd dtypes, and draws from every generator in the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            convolutional()[0], nn.Conv2d(2, 6, 1), nn.BatchNorm2d(6), nn.Flatten(), nn.Dropout(0.3)
        )
        self.head = nn.Linear(24, 4)
        self.register_buffer("seen", torch.zeros((), dtype=torch.bfloat16))
        self.register_buffer("scales", torch.ones(3).to(torch.float8_e4m3fn), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits with noise."""
        self.seen.add_(1.5)
        self.scales.copy_((self.scales.float() * 1.3).clamp(max=400).to(torch.float8_e4m3fn))
        noise = random.random() + np.random.rand()  # noqa: NPY002 - the one under test
        return self.head(self.body(x)) + noise + self.scales.float().sum() * 1e-3


def train(model: nn.Module, optimizers: Sequence[Optimizer], steps: int, *, amp: bool = False) -> None:
    """Steps on random batches."""
    for _ in range(steps):
        x, y = torch.randn(16, 8), torch.randint(0, 4, (16,))

        def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
            for optimizer in optimizers:
                optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=amp):
                loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            return loss

        for optimizer in optimizers:
            if isinstance(optimizer, LBFGS):
                optimizer.step(closure)
            else:
                closure()
                optimizer.step()


MAKERS: dict[str, Maker] = {
    "momentum": lambda m: [SGD(m.parameters(), 0.1, momentum=0.9, nesterov=True)],
    "adamw": lambda m: [AdamW(m.parameters(), 1e-2, amsgrad=True)],
    "adamw foreach": lambda m: [AdamW(m.parameters(), 1e-2, foreach=True)],
    "adam fused": lambda m: [Adam(m.parameters(), 1e-2, fused=True)],
    "tensor lr": lambda m: [Adam(m.parameters(), torch.tensor(1e-2), foreach=False)],
    "rmsprop": lambda m: [RMSprop(m.parameters(), 1e-2, momentum=0.5, centered=True)],
    "adagrad": lambda m: [Adagrad(m.parameters(), 1e-2)],
    "lbfgs": lambda m: [LBFGS(m.parameters(), 0.1, max_iter=3, history_size=3)],
    "two": lambda m: [SGD(m.body.parameters(), 0.1, momentum=0.9), AdamW(m.head.parameters(), 1e-2)],
    "groups": lambda m: [
        SGD([{"params": m.body.parameters()}, {"params": m.head.parameters(), "lr": 0.5}], 0.1, momentum=0.9)
    ],
}
