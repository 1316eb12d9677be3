"""Time of a recorded step over a bare one: `python -m tests.benchmarks.overhead`.

Three equal models train in one process on one thread. Short blocks of bare, hooked and recorded steps take
turns, so that whatever else the machine does hits them all; each round gives one ratio, and the median is
printed. The run file is written as in real use. Hooked steps are the yardstick of what Python costs on this
machine: a forward hook and a tensor hook on each module that collect references and measure nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

import nanscope
from nanscope.recording import backward

BLOCKS = {1: (150, 40), 32: (60, 10), 1024: (15, 2)}  # batch size: rounds, steps per block


def mlp() -> nn.Sequential:
    """The blog post's network."""
    torch.manual_seed(0)
    hidden = nn.Linear(1024, 1024)
    return nn.Sequential(nn.Linear(784, 1024), nn.ReLU(), hidden, nn.ReLU(), nn.Linear(1024, 10))


def stepper(model: nn.Module, x: Tensor, y: Tensor) -> tuple[torch.optim.Optimizer, Callable[[], None]]:
    """An optimizer and one ordinary step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    return optimizer, step


def seconds(step: Callable[[], None], steps: int) -> list[float]:
    """Duration of each step."""
    taken = []
    for _ in range(steps):
        begin = perf_counter()
        step()
        taken.append(perf_counter() - begin)
    return taken


def hooked(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Collect references to every output and its gradient, and drop them when the step ends."""
    kept: list[Tensor] = []

    def collect(_module: nn.Module, _args: object, output: Tensor) -> None:
        kept.append(output)
        output.register_hook(kept.append)

    for module in model:
        module.register_forward_hook(collect)
    optimizer.register_step_post_hook(lambda *_: kept.clear())


def paired(rows: int, folder: Path) -> tuple[float, float, float]:
    """Median time of a bare step in microseconds, and the median ratios of hooked and recorded to bare."""
    rounds, steps = BLOCKS[rows]
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(rows, 784, generator=generator), torch.randint(10, (rows,), generator=generator)
    models = [mlp() for _ in range(3)]
    (_, bare), (listener, listening), (optimizer, recorded) = (stepper(model, x, y) for model in models)
    hooked(models[1], listener)
    times, hooks, records = [], [], []
    with nanscope.record(models[2], optimizer, folder / f"{rows}.h5") as recorder:
        seconds(recorded, 2 * steps)  # the first steps are looked at closely
        for _ in range(rounds):
            backward.unwatch(recorder)  # a bare step calls torch's own backward
            times.append(median(seconds(bare, steps)))
            hooks.append(median(seconds(listening, steps)) / times[-1])
            backward.watch(recorder)
            records.append(median(seconds(recorded, steps)) / times[-1])
    return median(times) * 1e6, median(hooks), median(records)


@click.command()
@click.option("--batch-size", "sizes", multiple=True, type=click.Choice([str(n) for n in BLOCKS]))
def main(sizes: tuple[str, ...]) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    table = Table(
        "batch size",
        "bare us",
        "hooked",
        "recorded",
        title="MLP 784-1024-1024-10, one thread, multiples of the bare step",
    )
    with tempfile.TemporaryDirectory() as folder:
        for rows in sizes or map(str, BLOCKS):
            bare, hooks, records = paired(int(rows), Path(folder))
            table.add_row(rows, f"{bare:,.0f}", f"{hooks:.3f}", f"{records:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
