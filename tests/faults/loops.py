"""The plain training loop, and the attention reader that several families train with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from tests.faults.fault import Watch


def fit(
    watch: Watch,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[tuple[Tensor, ...]],
    objective: Callable[[Any, Tensor], Tensor],
) -> None:
    """One update per batch; a batch is the model's inputs and, last, the target."""
    with watch(model, optimizer):
        for *inputs, y in batches:
            optimizer.zero_grad()
            loss = objective(model(*inputs), y)
            loss.backward()
            optimizer.step()


class Attention(nn.Module):
    """Self-attention over (batch, time, width); `blocked` is True where a key must not be seen."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor, blocked: Tensor) -> Tensor:
        """Shapes (batch, time, width) and one that broadcasts to (batch, time, time)."""
        scores = self.query(x) @ self.key(x).transpose(1, 2) / x.shape[2] ** 0.5
        weights = scores.masked_fill(blocked, float("-inf")).softmax(dim=2)
        return weights @ self.value(x)


class Reader(nn.Module):
    """Attention over a sequence, the mean over time, and a linear head."""

    def __init__(self, attention: nn.Module, width: int, outputs: int) -> None:
        super().__init__()
        self.attention = attention
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor, blocked: Tensor) -> Tensor:
        """Shape (batch, outputs)."""
        pooled: Tensor = self.attention(x, blocked).mean(dim=1)
        return self.head(pooled)


def sentences(
    batches: int, rows: int = 8, time: int = 5, width: int = 6, classes: int = 3
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Sequences around the centre of their class: (rows, time, width), padding (rows, 1, time), labels."""
    centres = torch.randn(classes, 1, width)
    labels = [torch.randint(classes, (rows,)) for _ in range(batches)]
    padding = [torch.arange(time) >= torch.randint(2, time + 1, (rows, 1, 1)) for _ in range(batches)]
    return [
        (centres[y] + 0.5 * torch.randn(rows, time, width), p, y)
        for p, y in zip(padding, labels, strict=True)
    ]
