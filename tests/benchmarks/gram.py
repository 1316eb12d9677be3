"""Time of a weight gradient's norm from inner products and by a pass: `python -m tests.benchmarks.gram`.

Between two measurements a large tensor is written, so that the caches are as cold as within a training step.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch
from rich.console import Console
from rich.table import Table

from nanscope.recording import gram, stats

LAYERS = ((1024, 784), (1024, 1024), (4096, 1024), (256, 256), (10, 1024))
ROWS = (2, 8, 16, 32, 64, 128)
REPEATS = 40


def microseconds(call: Callable[[], object], other: torch.Tensor) -> float:
    """Median time of a call with cold caches."""
    taken = []
    for _ in range(REPEATS):
        other.add_(1)
        begin = perf_counter()
        call()
        taken.append(perf_counter() - begin)
    return median(taken) * 1e6


def main() -> None:
    """Print the table; the last column is what `gram.pays` decides."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    other = torch.zeros(4_000_000)
    table = Table("rows", "layer", "inner products us", "pass us", "chosen")
    for rows in ROWS:
        for outputs, inputs in LAYERS:
            d, x, grad = torch.randn(rows, outputs), torch.randn(rows, inputs), torch.randn(outputs, inputs)
            products = microseconds(lambda d=d, x=x: gram.squared_norm(d, x), other)  # type: ignore[misc]
            direct = microseconds(lambda grad=grad: stats.norms([grad]), other)  # type: ignore[misc]
            chosen = "products" if gram.pays(rows, outputs, inputs) else "pass"
            table.add_row(str(rows), f"{outputs} x {inputs}", f"{products:.0f}", f"{direct:.0f}", chosen)
    Console().print(table)


if __name__ == "__main__":
    main()
