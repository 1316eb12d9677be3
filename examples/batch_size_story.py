"""Why does batch size 1 predict class 0 for every image? Three plain trainings, recorded and explained.

    python examples/batch_size_story.py

Recording takes two lines, `import nanscope` and `with nanscope.record(...)`. The rest is an ordinary loop.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.preprocessing import scale
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import nanscope


def digits() -> tuple[Tensor, Tensor]:
    """1,797 images of 8x8 pixels, standardised, and the digits they show."""
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(scale(images), dtype=torch.float32), torch.tensor(labels)


def mlp() -> nn.Module:
    """64-1024-1024-10 with ReLU."""
    return nn.Sequential(
        nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10)
    )


def batches(x: Tensor, y: Tensor, size: int, epochs: int = 30) -> Iterator[tuple[Tensor, Tensor]]:
    """All samples in a new order every epoch, one slice after the other."""
    for _ in range(epochs):
        order = torch.randperm(len(x))
        yield from zip(x[order].split(size), y[order].split(size), strict=True)


def train(batch_size: int, lr: float, steps: int, path: Path) -> Path | None:
    """At most `steps` steps of SGD; gives the run file."""
    torch.manual_seed(0)
    x, y = digits()
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    with nanscope.record(model, optimizer, path) as recorder:
        for _, (inputs, labels) in zip(range(steps), batches(x, y, batch_size), strict=False):
            optimizer.zero_grad()
            loss = cross_entropy(model(inputs), labels)
            loss.backward()
            optimizer.step()
    return recorder.path


def main() -> None:
    """Trains with the three batch sizes of the story and prints what became of each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=2000, help="at most, per batch size")
    parser.add_argument("--lr", type=float, default=0.2)
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of the run files")
    args = parser.parse_args()
    for size in (1024, 32, 1):
        path = train(size, args.lr, args.steps, args.out / f"story-bs{size}.h5")
        print(f"batch size {size}: {nanscope.diagnose(path).summary}")


if __name__ == "__main__":
    main()
