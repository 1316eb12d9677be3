"""A training that knows nothing of nanscope: `nanscope run` records it as it is.

    python examples/plain_script.py                    # learns
    nanscope run examples/plain_script.py --lr 20      # collapses, and nanscope says since when and where

A small convolutional network on scikit-learn's digits, with the loop, the schedule and the evaluation that
such scripts have.
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, max_pool2d, relu
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset, random_split


class Net(nn.Module):
    """Two convolutions and two layers, for images of 8x8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.fc1 = nn.Linear(32 * 2 * 2, 64)
        self.fc2 = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape (batch, 10)."""
        x = max_pool2d(relu(self.conv1(x)), 2)
        x = max_pool2d(relu(self.conv2(x)), 2)
        return self.fc2(relu(self.fc1(x.flatten(1))))


def loaders(batch_size: int) -> tuple[DataLoader, DataLoader]:
    """Batches to train on and to test with."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    train, test = random_split(TensorDataset(images, torch.tensor(digits.target)), [1497, 300])
    return DataLoader(train, batch_size, shuffle=True), DataLoader(test, 300)


def train(model: nn.Module, optimizer: Optimizer, batches: DataLoader) -> float:
    """One epoch; gives its mean loss."""
    model.train()
    losses = []
    for x, y in batches:
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses) / len(losses)


@torch.no_grad()
def test(model: nn.Module, batches: DataLoader) -> float:
    """The share of correct answers."""
    model.eval()
    x, y = next(iter(batches))
    return (model(x).argmax(1) == y).float().mean().item()


def main() -> None:
    """Train and print one line per epoch."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    args = parser.parse_args()
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.7)
    train_batches, test_batches = loaders(args.batch_size)
    for epoch in range(args.epochs):
        loss = train(model, optimizer, train_batches)
        print(f"epoch {epoch}: loss {loss:.3f}, accuracy {test(model, test_batches):.3f}")
        schedule.step()


if __name__ == "__main__":
    main()
