"""TensorBoard: every series of a run beside your own curves, NaN and inf included.

    pip install "nanscope[tensorboard]"
    python examples/tensorboard_export.py
    tensorboard --logdir runs/tensorboard

A line is fitted with a learning rate that is too large; the norms of its layers show how it goes.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import mse_loss

import nanscope


def train(path: Path) -> Path | None:
    """A training that diverges; gives the run file."""
    torch.manual_seed(0)
    x = torch.linspace(-1, 1, 64).unsqueeze(1)
    model = nn.Sequential(nn.Linear(1, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=3.0)
    with nanscope.record(model, optimizer, path) as recorder:
        for _ in range(40):
            optimizer.zero_grad()
            loss = mse_loss(model(x), 3 * x)
            loss.backward()
            optimizer.step()
    return recorder.path


def main() -> None:
    """Train, then export as on the command line: `nanscope export RUN --to tensorboard -o FOLDER`."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/tensorboard"), help="the folder of the logs")
    args = parser.parse_args()
    run = train(args.out.with_suffix(".h5"))
    export = [sys.executable, "-m", "nanscope", "export", str(run)]
    subprocess.run([*export, "--to", "tensorboard", "-o", str(args.out)], check=True)  # noqa: S603 - as typed


if __name__ == "__main__":
    main()
