"""What `overhead.py` trains: the models, each with a batch, an optimizer and the bar it has to meet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

LR = 1e-3


@dataclass
class Training:
    """An ordinary loop, one step at a time.

    Attributes:
        loss: the forward pass and the loss of the step with this number.
        number: of the coming step.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Callable[[int], Tensor]
    number: int = 0

    def gradients(self) -> Tensor:
        """The first part of a step, up to the gradients; the loss."""
        self.optimizer.zero_grad()
        loss = self.loss(self.number)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    def update(self) -> None:
        """The rest of the step."""
        self.optimizer.step()
        self.number += 1

    def step(self) -> None:
        """One step."""
        self.gradients()
        self.update()


@dataclass(frozen=True)
class Subject:
    """A row of the table.

    Attributes:
        build: makes the training afresh, on a device; small ones only show that the program runs.
        block: steps timed at a time; about as many as are written together, which is ten times
            per second or every 64 steps, and a multiple of four, see `overhead_rivals.often`.
        rounds: blocks of each column.
        warm: steps of a fresh recorder before any is timed; the first ten are looked at closely.
        bar: recorded over bare at most, or None where it is in microseconds per site.
        memory: whether its peak memory is compared.
    """

    name: str
    build: Callable[[bool, str], Training]
    block: int
    rounds: int
    warm: int
    bar: float | None
    memory: bool = False


def classifier(model: nn.Module, x: Tensor, classes: int, device: str) -> Training:
    """Trains on one batch, over and over."""
    model, x = model.to(device), x.to(device)
    y = torch.randint(classes, x.shape[:1], device=device)
    optimizer = torch.optim.SGD(model.parameters(), LR)
    return Training(model, optimizer, lambda _: F.cross_entropy(model(x), y))


def mlp(rows: int) -> Callable[[bool, str], Training]:
    """The blog post's network 784-1024-1024-10."""

    def build(small: bool, device: str) -> Training:
        width = 64 if small else 1024
        hidden = nn.Linear(width, width)
        model = nn.Sequential(nn.Linear(784, width), nn.ReLU(), hidden, nn.ReLU(), nn.Linear(width, 10))
        return classifier(model, torch.randn(rows, 784), 10, device)

    return build


def tiny(small: bool, device: str) -> Training:
    """All overhead and no arithmetic: 60 layers of 8 units, which make 600 sites."""
    layers = [part for _ in range(6 if small else 60) for part in (nn.Linear(8, 8), nn.Tanh())]
    return classifier(nn.Sequential(*layers), torch.randn(4, 8), 8, device)


def resnet(small: bool, device: str) -> Training:
    """Torchvision's ResNet-18 on eight images of 64 x 64."""
    rows, side = (2, 32) if small else (8, 64)
    return classifier(
        torchvision.models.resnet18(num_classes=10), torch.randn(rows, 3, side, side), 10, device
    )


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (rows, length, width), in and out."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        projected: Tensor = self.project(mixed.transpose(1, 2).flatten(-2))
        return projected


class Block(nn.Module):
    """Attention and a two-layer MLP, each behind a LayerNorm and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Shape (rows, length, width), in and out."""
        mixed: Tensor = x + self.attention(self.norm1(x))
        result: Tensor = mixed + self.mlp(self.norm2(mixed))
        return result


@dataclass(frozen=True)
class Sizes:
    """Of a transformer and its batch."""

    depth: int
    width: int
    heads: int
    length: int
    words: int
    rows: int


class Transformer(nn.Module):
    """A decoder: words, shape (rows, length), to logits of the next word."""

    def __init__(self, of: Sizes) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(of.words, of.width), nn.Embedding(of.length, of.width)
        self.blocks = nn.Sequential(*(Block(of.width, of.heads) for _ in range(of.depth)))
        self.norm, self.head = nn.LayerNorm(of.width), nn.Linear(of.width, of.words)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits, shape (rows, length, words)."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        logits: Tensor = self.head(self.norm(self.blocks(self.token(tokens) + self.position(places))))
        return logits


def language(of: Sizes, device: str) -> Training:
    """A transformer that learns one batch of random words by heart, with AdamW."""
    model = Transformer(of).to(device)
    text = torch.randint(of.words, (of.rows, of.length + 1), device=device)
    into, target = text[:, :-1], text[:, 1:].flatten()
    optimizer = torch.optim.AdamW(model.parameters(), LR)
    return Training(model, optimizer, lambda _: F.cross_entropy(model(into).flatten(0, 1), target))


def transformer(small: bool, device: str) -> Training:
    """12 layers, width 256, sequence 256, batch 4."""
    sizes = Sizes(2, 32, 2, 16, 50, 2) if small else Sizes(12, 256, 8, 256, 4000, 4)
    return language(sizes, device)


SUBJECTS = (
    Subject("mlp-1", mlp(1), block=60, rounds=120, warm=130, bar=1.05),
    Subject("mlp-32", mlp(32), block=60, rounds=60, warm=130, bar=1.04),
    Subject("mlp-1024", mlp(1024), block=4, rounds=32, warm=20, bar=1.02),
    Subject("transformer", transformer, block=4, rounds=12, warm=20, bar=1.05, memory=True),
    Subject("resnet18", resnet, block=4, rounds=32, warm=20, bar=1.05, memory=True),
    Subject("tiny-600", tiny, block=32, rounds=60, warm=130, bar=None),
)
