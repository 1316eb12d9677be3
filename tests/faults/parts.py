"""What many programs share: data that is learnable, and a small network."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn


def mlp(*sizes: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers of these sizes with an activation between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1])


def regression(batches: int, rows: int = 16, features: int = 6) -> list[tuple[Tensor, Tensor]]:
    """Batches of (rows, features) and (rows, 1): a linear target with a little noise."""
    weights = torch.randn(features, 1)
    inputs = [torch.randn(rows, features) for _ in range(batches)]
    return [(x, x @ weights + 0.05 * torch.randn(rows, 1)) for x in inputs]


def classification(
    batches: int, rows: int = 16, features: int = 6, classes: int = 4
) -> list[tuple[Tensor, Tensor]]:
    """Batches of (rows, features) and (rows,): each class is a cloud around its own centre."""
    centres = 2 * torch.randn(classes, features)
    labels = [torch.randint(classes, (rows,)) for _ in range(batches)]
    return [(centres[y] + torch.randn(rows, features), y) for y in labels]
