"""SIGKILL a recorded training at random moments: `python -m tests.benchmarks.sigkill_training --kills 100`.

Each child trains a small network in an ordinary recorded loop and notes when each step ended in shared
memory. After the kill the run file is opened, and what it holds is compared with what was trained.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import struct
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click
import h5py
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

import nanscope

ENTRY = struct.Struct("<d")  # the time at which step i ended, at position i
STEPS = 1 << 20


@dataclass(frozen=True)
class Kill:
    """What one kill cost."""

    trained: int
    recorded: int
    seconds: float
    opens: bool
    right: bool


def train(path: Path, ended: mmap.mmap) -> None:
    """Train until killed; the loss of step i is written down by the user as well, to be compared."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, y = torch.randn(64, 64), torch.randint(10, (64,))
    with nanscope.record(model, optimizer, path):
        for step in range(STEPS):
            optimizer.zero_grad()
            row = step % 64
            F.cross_entropy(model(x[row : row + 1]), y[row : row + 1]).backward()
            optimizer.step()
            ENTRY.pack_into(ended, step * ENTRY.size, time.monotonic())


def kill_one(folder: Path, number: int, moment: float) -> Kill:
    """Start a training, kill it, look."""
    path, ended = folder / f"{number}.h5", mmap.mmap(-1, STEPS * ENTRY.size)
    child = os.fork()
    if child == 0:
        train(path, ended)
        os._exit(0)
    while not path.exists():
        time.sleep(0.001)
    time.sleep(moment)
    os.kill(child, signal.SIGKILL)
    killed = time.monotonic()
    os.waitpid(child, 0)
    return _look(path, ended, killed)


def _look(path: Path, ended: mmap.mmap, killed: float) -> Kill:
    times = [ENTRY.unpack_from(ended, i * ENTRY.size)[0] for i in range(200_000)]
    trained = next(i for i, moment in enumerate(times) if not moment)
    try:
        with h5py.File(path, "r"):
            run = nanscope.open_run(path)
    except Exception:  # noqa: BLE001 - any failure to open is the result
        return Kill(trained, 0, killed, opens=False, right=False)
    lost_since = times[len(run)] if len(run) < trained else killed
    right = run.steps.tolist() == list(range(len(run))) and run.state == "killed"
    return Kill(trained, len(run), max(0.0, killed - lost_since), opens=True, right=right)


@click.command()
@click.option("--kills", default=100, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(kills: int, seed: int) -> None:
    """Print the table."""
    choose = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        done = [kill_one(Path(folder), i, choose.uniform(0, 1.5)) for i in range(kills)]
    table = Table("kills", "opened", "wrong", "steps trained", "steps lost at most", "seconds lost at most")
    table.add_row(
        str(kills),
        str(sum(kill.opens for kill in done)),
        str(sum(not kill.right for kill in done)),
        f"{sum(kill.trained for kill in done):,}",
        str(max(kill.trained - kill.recorded for kill in done)),
        f"{max(kill.seconds for kill in done):.3f}",
    )
    Console().print(table)


if __name__ == "__main__":
    main()
