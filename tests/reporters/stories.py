"""Diagnoses by hand for the tests of what is shown, and streams to show them on."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from nanscope.run import Run
from nanscope.values import (
    Cause,
    Diagnosis,
    Epoch,
    Finding,
    Kind,
    Link,
    Origin,
    Phase,
    Remedy,
    Severity,
    Site,
    Verdict,
)
from tests.builders import make_run

FINAL = Site("final_layer", Kind.OUTPUT, "Linear", 2)
HOSTILE = ("[/red]", "\x1b]2;owned\x07", "n" * 300, "层1", "\u202eabc", "[bold]x[/bold]")
CONFIG: dict[str, Any] = {
    "dataset": "digits",
    "batch_size": 1,
    "lr": 0.1,
    "optimizer": "sgd",
    "seed": 0,
    "train_size": 1437,
    "classes": 10,
}
ARGMAX = "argmax of an all-NaN row is index 0, so class 0 is no preference of the model"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Yes."""
        return True


class AsciiStream(io.StringIO):
    """A stream that can encode nothing but ASCII."""

    encoding = "ascii"

    def write(self, text: str) -> int:
        """Refuse what a real one would refuse."""
        text.encode("ascii")
        return super().write(text)


def confusion(diagonal: int, column: int | None = None) -> tuple[tuple[int, ...], ...]:
    """36 samples of each of 10 classes: so many right and the rest off by one, or all in one column."""
    matrix = np.zeros((10, 10), int)
    for true in range(10):
        matrix[true, true if column is None else column] += diagonal if column is None else 36
        if column is None:
            matrix[true, (true + 1) % 10] += 36 - diagonal
    return tuple(map(tuple, matrix.tolist()))


def diverged_pair(name: str = "runs/digits-bs1.h5", **changes: Any) -> tuple[Run, Diagnosis]:
    """Learning rate 0.1 at batch size 1: the last layer grows tenfold a step and overflows at step 1653."""
    rows, birth = 1854, 1653
    decades = np.clip(np.arange(rows) - (birth - 27), 0, 26)
    size = np.where(decades, 1.2, 1.0) * 10.0**decades
    final = np.where(np.arange(rows) < birth, 4 * size, np.nan)
    epoch = Epoch(2, rows, 417, 1.5, float("nan"), 0.1, 0.018, confusion(0, column=0))
    parts: dict[str, Any] = {
        "outputs": {"layer1_layer": np.full(rows, 3.0), "final_layer": final},
        "loss": np.where(np.arange(rows) < birth, 2.0 * size, np.nan),
        "config": CONFIG,
        "epochs": (Epoch(1, 1437, 1437, 3.1, 0.4, 0.9, 0.89, confusion(32)), epoch),
        "name": name,
    }
    argmax = Finding("NS201", "argmax-of-nan", Severity.ERROR, 1654, f"all logits are NaN: {ARGMAX}", FINAL)
    growth = Finding("NS301", "geometric-growth", Severity.WARNING, 1626, "grows 10 x per step", FINAL)
    diagnosis = Diagnosis(
        Verdict.DIVERGED,
        f"final_layer overflowed at step 1653 and the update wrote NaN into every parameter; {ARGMAX}",
        Origin(birth, Phase.FORWARD, "final_layer", FINAL),
        (
            Cause(
                "learning-rate-divergence",
                1,
                "the norm of final_layer.output grew 10 x per step for 27 steps before anything was NaN",
                (
                    "grows 10 x per step",
                    "log(0) did not occur: the logits were inf before the loss was formed",
                ),
                ("lower-learning-rate",),
            ),
        ),
        (growth, argmax),
        (
            Remedy("lower-learning-rate", "lower the learning rate: 0.01 is a first try (it was 0.1)"),
            Remedy("clip-gradients", "clip the gradient norm to 1.0 before the update"),
        ),
        (
            Link(1626, "grows 10 x per step", None, FINAL),
            Link(birth, "8 of 10 logits are inf: the first non-finite value", Phase.FORWARD, FINAL),
            Link(birth, "the loss is nan", Phase.LOSS),
            Link(birth, "the update writes NaN into 6 of 6 parameters", Phase.UPDATE),
            Link(1654, f"all logits are NaN: {ARGMAX}", Phase.FORWARD, FINAL),
        ),
        ("the operation and its source line: not watched in this run",),
    )
    return make_run(**(parts | changes)), diagnosis


def collapsed_pair(name: str = "runs/mnist-bs1.h5") -> tuple[Run, Diagnosis]:
    """Dead ReLUs: the loss stays finite at chance level."""
    site = Site("layer2_activation", Kind.OUTPUT, "ReLU", 1)
    message = (
        "every unit of layer2_activation is zero since step 900, so that all samples get the same logits"
    )
    dead = Finding("NS202", "dead-layer-collapse", Severity.ERROR, 900, message, site)
    units = [
        Finding("NS303", "dead-units", Severity.WARNING, 800 + i, f"{60 + i} % of the units are dead", site)
        for i in range(3)
    ]
    rows = 3000
    outputs = {
        "layer2_activation": np.where(np.arange(rows) < 900, 5.0, 0.0),
        "final_layer": np.full(rows, 2.0),
    }
    epochs = (Epoch(1, rows, rows, 2.0, 2.301, 0.112, 0.02, confusion(0, column=1)),)
    diagnosis = Diagnosis(
        Verdict.COLLAPSED,
        "layer 2 died at step 900: the answer no longer depends on the input",
        None,
        (),
        (*units, dead),
        (
            Remedy("lower-learning-rate", "lower the learning rate to 0.05", "prevented", 3000),
            Remedy("warm-up", "warm the learning rate up", "not-prevented", 3000),
        ),
        (),
        ("which update killed the layer: single operations were not watched",),
    )
    run = make_run(
        outputs=outputs,
        loss=np.full(rows, 2.3),
        config={"dataset": "mnist", "batch_size": 1, "lr": 0.2},
        epochs=epochs,
        name=name,
        state="killed",
        lost=("812 steps could not be written and are missing",),
    )
    return run, diagnosis


def healthy_pair(batch: int | None = 32, rows: int = 1350, **changes: Any) -> tuple[Run, Diagnosis]:
    """A training that learns."""
    updates = 1 if batch is None else -(-1437 // batch)
    last = Epoch(30, rows, updates, 0.21, 0.150, 0.967, 0.966, confusion(35))
    parts: dict[str, Any] = {
        "outputs": {"final_layer": np.full(rows, 4.0)},
        "loss": np.linspace(2.4, 0.1, rows),
        "config": CONFIG | {"batch_size": batch},
        "epochs": (last,),
        "name": f"runs/digits-bs{batch or 'full'}.h5",
    }
    return make_run(**(parts | changes)), Diagnosis(Verdict.HEALTHY, f"nothing wrong in {rows} steps")
