"""A small decoder-only transformer learns to add, and nanscope has nothing to complain about.

    python examples/transformer.py

The text is endless and made up on the fly: `17+25=42`, one sum per line, predicted character by character.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

import nanscope

ALPHABET = "\n+=0123456789"
LENGTH = 48  # characters that the model sees at once


def text(rows: int) -> Tensor:
    """Lines of sums as character numbers, shape (rows, LENGTH + 1)."""
    a, b = torch.randint(100, (2, rows, LENGTH)).tolist()
    lines = [
        "".join(f"{m}+{n}={m + n}\n" for m, n in zip(left, right, strict=True))
        for left, right in zip(a, b, strict=True)
    ]
    return torch.tensor([[ALPHABET.index(letter) for letter in line[: LENGTH + 1]] for line in lines])


class Block(nn.Module):
    """Causal self-attention and a two-layer MLP, each behind a LayerNorm and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def attention(self, x: Tensor) -> Tensor:
        """Every position looks at itself and at those before it; shape (rows, length, width)."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1)
        )
        mixed = scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.project(mixed.transpose(1, 2).flatten(-2))

    def forward(self, x: Tensor) -> Tensor:
        """Shape (rows, length, width), in and out."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Character numbers, shape (rows, length), to logits of the next character."""

    def __init__(self, width: int = 64, heads: int = 4, depth: int = 2) -> None:
        super().__init__()
        self.token = nn.Embedding(len(ALPHABET), width)
        self.position = nn.Embedding(LENGTH, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, len(ALPHABET))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits, shape (rows, length, characters)."""
        x = self.token(tokens) + self.position(torch.arange(tokens.shape[1]))
        return self.head(self.norm(self.blocks(x)))


def main() -> None:
    """Trains, records, and prints the verdict."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("runs/transformer.h5"), help="the run file")
    args = parser.parse_args()

    torch.manual_seed(0)
    model = Transformer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with nanscope.record(model, optimizer, args.out) as recorder:
        for _ in range(args.steps):
            tokens = text(rows=32)
            optimizer.zero_grad()
            logits = model(tokens[:, :-1])
            loss = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
            loss.backward()
            optimizer.step()
    print(nanscope.diagnose(recorder.path).summary)


if __name__ == "__main__":
    main()
