"""A case: one batch-size configuration of the experiment, checked before anything heavy is imported.

Free of torch, so that the command line can name the choices and refuse a bad one without loading it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanscope.errors import UsageError

if TYPE_CHECKING:  # importing it for real would load torch
    from nanscope.experiment.data import Dataset

DATASETS = ("digits", "mnist", "fashion-mnist")
OPTIMIZERS = ("sgd", "rmsprop", "adam", "adamw")
ACTIVATIONS = ("relu", "leaky-relu", "gelu", "silu", "tanh", "sigmoid")
FULL_BATCH = "full"

_DIGITS = 18  # int() itself refuses thousands of digits, with a traceback
_WITH_MOMENTUM = ("sgd", "rmsprop")
_SEEDS = 2**63  # torch takes more, but a run file holds its seed as a signed 64-bit integer


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Everything that decides how one training of the experiment goes.

    Attributes:
        batch_size: rows per update; None is true batch gradient descent, all rows in every update.
        hidden: width of each hidden layer, first to last.
        standardise: inputs with mean 0 and variance 1 over the training part, otherwise within [0, 1].
        data_dir: folder for `mnist` and `fashion-mnist`, laid out as torchvision does; `digits` needs none.
        aftermath: steps to go on after the first non-finite value, so that what follows it is on record.

    Raises:
        UsageError: a value that no training can be run with.
    """

    dataset: str = "digits"
    batch_size: int | None = 32
    lr: float = 0.1
    epochs: int = 30
    optimizer: str = "sgd"
    momentum: float = 0.0
    hidden: tuple[int, ...] = (1024, 1024)
    activation: str = "relu"
    seed: int = 0
    device: str = "cpu"
    standardise: bool = True
    data_dir: Path = Path("data")
    aftermath: int = 200

    def __post_init__(self) -> None:
        self._check_names()
        self._check_counts()
        self._check_rates()

    def _check_names(self) -> None:
        _one_of("dataset", self.dataset, DATASETS)
        _one_of("optimizer", self.optimizer, OPTIMIZERS)
        _one_of("activation", self.activation, ACTIVATIONS)

    def _check_counts(self) -> None:
        if self.batch_size is not None:
            _at_least("batch size", self.batch_size, 1, f"or {FULL_BATCH!r} for all rows in every update")
        for width in self.hidden:
            _at_least("hidden width", width, 1)
        _at_least("epochs", self.epochs, 1)
        _at_least("aftermath", self.aftermath, 0)
        _at_least("seed", self.seed, 0)
        if self.seed >= _SEEDS:
            raise UsageError(f"seed {self.seed} is too large", "give a number below 2**63")

    def _check_rates(self) -> None:
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise UsageError(f"lr {self.lr} is no learning rate", "give a finite number above 0")
        if not 0 <= self.momentum < 1:
            raise UsageError(f"momentum {self.momentum} is out of range", "give a number from 0 to below 1")
        if self.momentum and self.optimizer not in _WITH_MOMENTUM:
            takers = " or ".join(_WITH_MOMENTUM)
            raise UsageError(f"{self.optimizer} takes no momentum", f"leave it out, or use {takers}")

    @property
    def label(self) -> str:
        """The case in a table or a heading: `bs=32` or `full batch`."""
        return "full batch" if self.batch_size is None else f"bs={self.batch_size}"

    @property
    def run_path(self) -> Path:
        """Where the run file goes unless told otherwise, below the current folder."""
        size = FULL_BATCH if self.batch_size is None else self.batch_size
        return Path("runs") / f"{self.dataset}-bs{size}.h5"

    def rows(self, train_size: int) -> int:
        """Rows in a full update over a training part of this size."""
        return train_size if self.batch_size is None else min(self.batch_size, train_size)

    def updates(self, train_size: int) -> int:
        """Updates in an epoch over a training part of this size; the last may take fewer rows."""
        return -(-train_size // self.rows(train_size))

    def config(self, dataset: Dataset) -> dict[str, Any]:
        """The settings for the run file, as JSON types; `batch_size` is null for the full batch."""
        train_size = len(dataset.train_y)
        return {
            "case": self.label,
            "dataset": dataset.name,
            "batch_size": self.batch_size,
            "lr": self.lr,
            "optimizer": self.optimizer,
            "momentum": self.momentum,
            "epochs": self.epochs,
            "updates_per_epoch": self.updates(train_size),
            "seed": self.seed,
            "hidden": list(self.hidden),
            "activation": self.activation,
            "device": self.device,
            "aftermath": self.aftermath,
            "train_size": train_size,
            "test_size": len(dataset.test_y),
            "classes": dataset.classes,
            "label_counts": list(dataset.label_counts),
            "standardised": dataset.standardised,
            "data_dir": str(self.data_dir),
        }


def case_of(config: Mapping[str, Any]) -> Case:
    """The case whose settings a run file holds, so that it can be trained again.

    Raises:
        UsageError: the run is of another program.
    """
    names = ("dataset", "batch_size", "lr", "epochs", "optimizer", "momentum", "activation", "seed", "device")
    try:
        settings = {name: config[name] for name in (*names, "aftermath")}
        return Case(
            hidden=tuple(config["hidden"]),
            standardise=config["standardised"],
            data_dir=Path(config.get("data_dir", "data")),
            **settings,
        )
    except (KeyError, TypeError) as error:
        raise UsageError(
            "only a run of `nanscope train` can be executed again from its file",
            "in your own program: nanscope.record(..., verify_remedies=True)",
        ) from error


def batch_size_of(text: str) -> int | None:
    """The batch size that a user wrote: a number, or `full` (None).

    Raises:
        UsageError: neither of them.
    """
    if text == FULL_BATCH:
        return None
    number = text.isascii() and text.isdigit() and len(text) <= _DIGITS
    if not number or int(text) < 1:
        raise UsageError(f"batch size {text!r} is no batch size", f"give a number from 1, or {FULL_BATCH!r}")
    return int(text)


def _one_of(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{what} {value!r} is not known", f"choose from {', '.join(choices)}")


def _at_least(what: str, value: int, least: int, otherwise: str = "") -> None:
    if value < least:
        raise UsageError(f"{what} {value} is too small", f"give a number from {least} {otherwise}".rstrip())
