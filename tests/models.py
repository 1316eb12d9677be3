"""Tiny networks, one for each way in which a model can be awkward to watch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


def mlp(width: int = 16, inputs: int = 8, classes: int = 4) -> nn.Sequential:
    """Two layers and a ReLU."""
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, classes))


def wide() -> nn.Sequential:
    """Layers large enough for the factors of their weight gradients to be used."""
    return nn.Sequential(nn.Linear(8, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 4))


def broad() -> nn.Sequential:
    """Outputs so large that even those of one row are measured at once."""
    return nn.Sequential(nn.Linear(8, 6000), nn.ReLU(), nn.Linear(6000, 4))


def in_place() -> nn.Sequential:
    """An activation that overwrites its input."""
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(inplace=True), nn.Linear(16, 4))


def convolutional() -> nn.Sequential:
    """Image-like outputs and a normalisation with buffers."""
    return nn.Sequential(
        nn.Unflatten(1, (2, 2, 2)),
        nn.Conv2d(2, 6, 1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24, 4),
    )


class Reused(nn.Module):
    """One layer called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Linear(8, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Apply `again` three times."""
        for _ in range(3):
            x = torch.tanh(self.again(x))
        return self.head(x)


class Tied(nn.Module):
    """A wide layer whose weight the forward uses once more."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(400, 400)
        self.head = nn.Linear(400, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Through the weight and back through its transpose."""
        x = torch.nn.functional.pad(x, (0, 392))
        return self.head(torch.tanh(self.body(x)) @ self.body.weight)


@dataclass
class Answer:
    """What `Structured` returns."""

    scores: Tensor
    parts: dict[str, Tensor]
    number: int = 3


class Split(nn.Module):
    """Returns a tuple with an integer tensor in it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 16)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Two halves and the largest index."""
        y = self.layer(x)
        return y[:, :8], y[:, 8:], y.argmax(1)


class Structured(nn.Module):
    """Tuple, dict and dataclass outputs, nested modules, one never called, one without gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.split = Split()
        self.embedding = nn.Embedding(16, 8)
        self.block = nn.ModuleDict({"head": nn.Linear(8, 4)})
        self.unused = nn.Linear(3, 3)
        self.frozen = nn.Linear(8, 8).requires_grad_(requires_grad=False)

    def forward(self, x: Tensor) -> Answer:
        """Everything at once."""
        left, right, index = self.split(self.frozen(x))
        scores = self.block["head"](left * right + self.embedding(index))
        return Answer(scores, {"left": left})


class Recurrent(nn.Module):
    """A module with nested tuple outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2, 6, batch_first=True)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Read 4 time steps of 2 numbers."""
        out, _ = self.lstm(x.reshape(-1, 4, 2))
        return self.head(out[:, -1])


class Checkpointed(nn.Module):
    """Runs a part of its forward again during the backward."""

    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.Tanh())
        self.head = nn.Linear(16, 4)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        """Checkpoint the body."""
        from torch.utils.checkpoint import checkpoint  # noqa: PLC0415 - used here only

        x = x.requires_grad_()
        return self.head(checkpoint(self.body, x, use_reentrant=self.reentrant))
