"""Time of every detector on a long run in memory: `python -m tests.benchmarks.detect [--rows N]`.

1.8 million steps (30 epochs of MNIST at batch size 1) of a classifier with 20 sites, three times: healthy,
diverged near the end, and poisoned from step 300 on.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from time import perf_counter

import numpy as np
from rich.console import Console
from rich.table import Table

from nanscope.detectors import DETECTORS, detect
from nanscope.run import Run
from tests.builders import every, make_run

MODULES = ("layer1_layer", "layer1_activation", "layer2_layer", "layer2_activation", "final_layer")
PARAMETERS = tuple(
    f"{name}_layer.{kind}" for name in ("layer1", "layer2", "final") for kind in ("weight", "bias")
)
CLASSES = 10


def long_run(rows: int, birth: int | None = None) -> Run:
    """Norms around 1 with the noise of batch size 1; all of them NaN from `birth` on.

    One noise array is shared and rolled, so that building the run costs little.
    """
    random = np.random.default_rng(0)
    noise = np.exp(random.normal(0, 0.5, rows)).astype(np.float32)

    def series(shift: int) -> np.ndarray:
        values = np.roll(noise, shift)
        if birth is not None:
            values[birth:] = np.nan
        return values

    shifts = iter(range(0, 100_000, 1000))
    classes = random.integers(0, CLASSES, rows)
    return make_run(
        inputs=np.roll(noise, -5),
        outputs={name: series(next(shifts)) for name in MODULES},
        grad_outputs={name: series(next(shifts)) for name in MODULES[1:-1]},
        weights={name: every(100, series(next(shifts))) for name in PARAMETERS[:5]},
        grads={name: series(next(shifts)) for name in PARAMETERS},
        loss=series(next(shifts)),
        lr=np.full(rows, 0.1, np.float32),
        samples=np.ones(rows, np.float32),
        logits_margin=series(next(shifts)),
        predicted_nan=np.zeros(rows, np.float32)
        if birth is None
        else (np.arange(rows) > birth).astype(np.float32),
        scalars={f"predicted_{c}": (classes == c).astype(np.float32) for c in range(CLASSES)},
    )


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    begin = perf_counter()
    call()
    return perf_counter() - begin


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_800_000)
    rows = parser.parse_args().rows
    runs = {
        "healthy": long_run(rows),
        "late NaN": long_run(rows, rows - 100),
        "early NaN": long_run(rows, 300),
    }
    sites = len(next(iter(runs.values())).sites)
    table = Table("detector", *runs, title=f"{rows:,} steps, {sites} sites: seconds")
    for detector in DETECTORS:
        cells = (f"{seconds(lambda run=run, ask=detector: list(ask(run))):.3f}" for run in runs.values())
        table.add_row(detector.__name__, *cells)
    table.add_section()
    # A fresh `Run` each time: nothing that an earlier call cached may help.
    table.add_row(
        "all", *(f"{seconds(lambda run=run: detect(dataclasses.replace(run))):.3f}" for run in runs.values())
    )
    Console().print(table)


if __name__ == "__main__":
    main()
