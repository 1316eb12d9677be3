"""What a snapshot costs: in the training's thread, off it, in memory, and to a row written meanwhile.

    python -m tests.benchmarks.snapshots

The MLP 784-1024-1024-10, one thread, into a file in the temporary folder.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from nanscope.recording.state import capture, restore, room_for
from nanscope.store.snapshots.slots import HEADER_BYTES
from tests.store.snapshot_files import SlotFile

PUTS, ROW = 30, bytes(960)


def train(model: nn.Module, optimizer: Optimizer, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    """One step."""
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
    optimizer.step()


def row_times(descriptor: int, seconds: float) -> list[float]:
    """Microseconds of rows written into the same file, for so long."""
    times, end = [], perf_counter() + seconds
    while perf_counter() < end:
        begin = perf_counter()
        os.pwrite(descriptor, ROW, 0)
        times.append(1e6 * (perf_counter() - begin))
    return sorted(times)


def spread(times: list[float]) -> str:
    """Median, 99th percentile and maximum."""
    ordered = sorted(times)
    return f"{median(ordered):.2f} / {ordered[int(0.99 * (len(ordered) - 1))]:.2f} / {ordered[-1]:.2f}"


def measure(kind: type[Optimizer], folder: Path) -> list[str]:
    """One row of the table."""
    model = nn.Sequential(
        nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10)
    )
    optimizer = kind(model.parameters(), lr=0.01)
    batch = torch.randn(32, 784), torch.randint(0, 10, (32,))
    file = SlotFile(folder / kind.__name__, 3, room_for(model, optimizer, batch))
    train(model, optimizer, batch)
    captures, puts, writes, busy = [], [], [], []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with file.writing() as writer:
        descriptor = os.open(file.path, os.O_RDWR)
        for step in range(PUTS):
            train(model, optimizer, batch)
            begin = perf_counter()
            pieces, meta = capture(model, optimizer, batch)
            captured = perf_counter()
            assert writer.put(step, 0.0, pieces, meta)
            done = perf_counter()
            if step % 2:
                busy += row_times(descriptor, 0.01)
            else:
                writer.wait()
                writes.append(1e3 * (perf_counter() - done))
            writer.wait()
            captures.append(1e3 * (captured - begin))
            puts.append(1e3 * (done - captured))
        idle = row_times(descriptor, 0.1)
        os.close(descriptor)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    begin = perf_counter()
    newest = file.read()[0]
    listed = perf_counter()
    restore(newest, model, optimizer)
    return [
        f"{kind.__name__}, {newest.nbytes / 1e6:.1f} MB",
        spread(captures),
        spread(puts),
        spread(writes),
        f"{grown / 1e3:.0f} for a slot of {(file.slot_bytes - HEADER_BYTES) / 1e6:.0f}",
        f"{spread(idle)}\n{spread(busy)}",
        f"{1e3 * (listed - begin):.1f} + {1e3 * (perf_counter() - listed):.1f}",
    ]


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    table = Table(title=f"Snapshots: median / p99 / max of {PUTS}", show_lines=True)
    for name in ("state", "capture ms", "put ms", "write ms", "memory MB", "row us idle, busy", "read ms"):
        table.add_column(name)
    with tempfile.TemporaryDirectory() as folder:
        for kind in (SGD, AdamW):
            table.add_row(*measure(kind, Path(folder)))
    Console(width=130 if not sys.stdout.isatty() else None).print(table)


if __name__ == "__main__":
    main()
