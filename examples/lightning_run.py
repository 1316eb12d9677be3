"""Lightning: one callback, `NanscopeCallback`, records a Trainer and explains what went wrong.

    pip install "nanscope[lightning]"
    python examples/lightning_run.py

The module predicts a mean and a variance and forgets that a variance may not be negative.
"""

import argparse

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from nanscope.integrations.lightning import NanscopeCallback


class MeanAndVariance(LightningModule):
    """A line with the width of its noise, by maximum likelihood."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 2))

    def forward(self, x: Tensor) -> Tensor:
        """Mean and variance, shape (batch, 2)."""
        return self.body(x) + torch.tensor([0.0, 1.0])

    def training_step(self, batch: list[Tensor], _number: int) -> Tensor:
        """The negative logarithm of the likelihood."""
        x, y = batch
        mean, variance = self(x).unbind(1)
        return (torch.log(variance) + (y - mean) ** 2 / variance).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain gradient descent."""
        return torch.optim.SGD(self.parameters(), lr=0.05)


def main() -> None:
    """Train until it breaks; the last lines are nanscope's."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", default="runs/lightning.h5", help="the run file")
    args = parser.parse_args()
    seed_everything(0, verbose=False)
    x = torch.linspace(-1, 1, 256).unsqueeze(1)
    y = 2 * x.squeeze(1) + 0.05 * torch.randn(256)
    trainer = Trainer(
        max_epochs=20,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[NanscopeCallback(args.out, on_nonfinite="stop")],
    )
    trainer.fit(MeanAndVariance(), DataLoader(TensorDataset(x, y), batch_size=16))


if __name__ == "__main__":
    main()
