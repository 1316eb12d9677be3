"""Three cases of one experiment as real run files: batch sizes 1024, 32 and 1, the last of which diverges.

    paths = tell(folder)      # paths[1], paths[32], paths[1024]

The run with batch size 1 is healthy until 40 steps before `BIRTH`, grows eightfold per step, and has its
first NaN in the gradient of `fc2.weight` at `BIRTH`. One step of `fc1` stands out by itself at `SPIKE`; one
loss amid the NaNs is finite at `LONE`; one value is infinite, not NaN, at `INFINITE`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanscope.run import Floats, Run
from nanscope.store.writer import RunWriter
from nanscope.values import Epoch, Kind
from tests.builders import every, make_run, make_source

ROWS: Mapping[int, int] = {1024: 60, 32: 1_900, 1: 60_000}
BIRTH, GROWTH, SPIKE, LONE, INFINITE = 42_017, 40, 12_345, 45_000, 43_000
CLASSES = 10
MODULES = ("fc1", "relu1", "fc2", "relu2", "fc3")
LINEAR = ("fc1", "fc2", "fc3")
TRAIN_SIZE = 2_000


def tell(folder: Path, batches: tuple[int, ...] = (1024, 32, 1)) -> dict[int, Path]:
    """Write the cases into a folder, by batch size."""
    return {batch: write(folder / f"digits-bs{batch}.h5", case(batch)) for batch in batches}


def write(path: Path, run: Run) -> Path:
    """A run in memory as a run file."""
    writer = RunWriter.create(path, run.header, capacity=max(1, len(run)), mode="batch")
    for first in range(0, len(run), 4_096):
        stop = min(len(run), first + 4_096)
        steps, times = run.source.steps(first, stop), run.source.times(first, stop)
        for step, time, row in zip(steps, times, run.source.block(first, stop), strict=True):
            writer.append(int(step), float(time), row, more=True)
    for epoch in run.epochs:
        writer.epoch(epoch)
    for event in run.events:
        writer.event(event["kind"], event["step"], **{k: v for k, v in event.items() if k not in _OWN})
    if run.state != "live":
        writer.close(run.state)
    return path


_OWN = ("kind", "step")


def case(batch: int, rows: int | None = None) -> Run:
    """One case in memory."""
    many = ROWS[batch] if rows is None else rows
    size = np.ones(many)
    if batch == 1:
        size = np.minimum(8.0 ** np.clip(np.arange(many) - (BIRTH - GROWTH), 0, 100), 1e30)
    return _poisoned(_recorded(batch, size)) if batch == 1 else _recorded(batch, size)


def _noise(rows: int, seed: int, width: float) -> NDArray[np.float64]:
    return np.exp(np.random.default_rng(seed).normal(0, width, rows))


def _recorded(batch: int, size: NDArray[np.float64]) -> Run:
    rows = len(size)
    width = 0.4 / np.sqrt(np.sqrt(batch))
    outputs = {name: (4 + i) * size * _noise(rows, i, width) for i, name in enumerate(MODULES)}
    if rows > SPIKE:
        outputs["fc1"][SPIKE] *= 1e4
    fall = 2.3 * np.exp(-3 * np.arange(rows) / rows) + 0.05
    predicted = np.random.default_rng(9).multinomial(batch, [1 / CLASSES] * CLASSES, rows)
    return make_run(
        inputs=8 * _noise(rows, 20, width / 4),
        outputs=outputs,
        weights={f"{name}.weight": every(100, 12 * size**0.5 + np.arange(rows) / rows) for name in LINEAR},
        grads={f"{name}.weight": 0.5 * size * _noise(rows, 30 + i, width) for i, name in enumerate(LINEAR)},
        stats={(Kind.OUTPUT, "relu2", "dead_fraction"): every(50, np.full(rows, 0.25))},
        predicted=predicted,
        loss=fall * size * _noise(rows, 50, width),
        lr=0.1,
        samples=float(batch),
        logits_abs_max=3 * size * _noise(rows, 51, width),
        config=_config(batch),
        environment={"torch": "2.6.0", "device": "cpu", "dtype": "float32", "seed": 0},
        epochs=_epochs(batch, rows),
        name=f"digits-bs{batch}.h5",
    )


def _config(batch: int) -> dict[str, Any]:
    return {
        "dataset": "digits", "batch_size": batch, "lr": 0.1, "optimizer": "sgd", "epochs": 30,
        "train_size": TRAIN_SIZE, "classes": CLASSES, "label_counts": [TRAIN_SIZE // CLASSES] * CLASSES,
    }  # fmt: skip


def _epochs(batch: int, rows: int) -> tuple[Epoch, ...]:
    updates = -(-TRAIN_SIZE // batch)
    good = tuple(tuple(32 if i == j else int(i + j == 9) for j in range(CLASSES)) for i in range(CLASSES))
    bad = tuple((36, *([0] * (CLASSES - 1))) for _ in range(CLASSES))
    found = []
    for number in range(1, rows // updates + 1):
        died = batch == 1 and number * updates > BIRTH
        score = (float("nan"), 0.1, 0.018, bad) if died else (0.2, 0.97, 0.97, good)
        found.append(Epoch(number, number * updates, updates, 1.0, *score))
    return tuple(found)


def _poisoned(run: Run) -> Run:
    """A NaN in one gradient at `BIRTH`, and one step later everywhere."""
    arrays = [np.array(run.source.column(i, 0, len(run))) for i in range(len(run.header.columns))]
    for values, place in zip(arrays, run.header.columns, strict=True):
        if place.site is None:
            _poison_scalar(values, place.stat)
        elif place.site.kind is not Kind.INPUT:
            first = str(place.site) == "fc2.weight.grad"
            _poison(values, place.stat, BIRTH if first else BIRTH + 1)
    return replace(run, source=make_source(arrays, run))


def _poison(values: Floats, stat: str, start: int) -> None:
    values[start:] = {"nan_count": 16.0, "inf_count": 0.0}.get(stat, np.nan)


def _poison_scalar(values: Floats, name: str) -> None:
    if name == "loss":
        values[BIRTH + 1 :] = np.nan
        values[LONE] = 2.5
    elif name == "logits_abs_max":
        values[BIRTH + 1 :] = np.nan
        values[INFINITE] = np.inf
    elif name.startswith("predicted_"):
        values[BIRTH + 1 :] = name == "predicted_0"
