"""`nanscope train`: the batch-size experiment."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from nanscope.cli import answers
from nanscope.cli.options import INTERRUPTED
from nanscope.errors import UsageError
from nanscope.experiment.cases import ACTIVATIONS, DATASETS, OPTIMIZERS, Case, batch_size_of


@click.command()
@click.option(
    "--batch-size", "sizes", multiple=True, metavar="N|full", default=("32",), show_default=True,
    help="Rows per update; full is true batch gradient descent. Repeat it for several cases.",
)  # fmt: skip
@click.option("--lr", type=float, default=0.1, show_default=True, help="Learning rate.")
@click.option("--epochs", type=int, default=30, show_default=True, help="Passes over the training data.")
@click.option(
    "--dataset", type=click.Choice(DATASETS), default="digits", show_default=True,
    help="What to train on; digits comes with scikit-learn, the others are downloaded.",
)  # fmt: skip
@click.option(
    "--data-dir", type=click.Path(path_type=Path), default=Path("data"), show_default=True,
    help="Folder of mnist and fashion-mnist, as torchvision lays it out; digits needs none.",
)  # fmt: skip
@click.option(
    "--optimizer", type=click.Choice(OPTIMIZERS), default="sgd", show_default=True, help="As torch has it.",
)  # fmt: skip
@click.option("--momentum", type=float, default=0.0, show_default=True, help="For sgd and rmsprop.")
@click.option("--hidden", default="1024,1024", show_default=True, metavar="N,N,...", help="Hidden widths.")
@click.option(
    "--activation", type=click.Choice(ACTIVATIONS), default="relu", show_default=True,
    help="After each hidden layer.",
)  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Of weights and order of the data.")
@click.option("--device", default="cpu", show_default=True, help="As torch names it: cpu, cuda, cuda:1, mps.")
@click.option(
    "--standardise/--no-standardise", default=True, show_default=True,
    help="Inputs with mean 0 and variance 1, or within [0, 1].",
)  # fmt: skip
@click.option(
    "--aftermath", type=int, default=200, show_default=True,
    help="Steps to go on after the first non-finite value, so that what follows is on record.",
)  # fmt: skip
@click.option(
    "--batch/--no-batch", "keep_batch", default=True, show_default=True,
    help="Keep the batch of a bad step in the run file, or not: private data.",
)  # fmt: skip
@click.option(
    "-o", "--output", type=click.Path(path_type=Path),
    help="The run file; with several cases, a folder.  [default: runs/<dataset>-bs<N>.h5]",
)  # fmt: skip
def train(
    sizes: tuple[str, ...], hidden: str, output: Path | None, *, keep_batch: bool, **settings: Any
) -> None:
    """Train the batch-size experiment, record every step, and explain how it ended."""
    widths = tuple(_width(word) for word in hidden.split(","))
    cases = [Case(batch_size=batch_size_of(size), hidden=widths, **settings) for size in sizes]
    paths = _paths(cases, output)
    files = _train(cases, paths, keep_batch=keep_batch)
    if not files:
        raise UsageError(
            "nothing was recorded, so there is nothing to explain", "choose another place with -o"
        )
    if len(files) == 1:
        answers.tell(files[0], "text")
    else:
        answers.tell_all(files, "text")


def _width(word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise UsageError(f"hidden width {word!r} is no number", "write it like --hidden 1024,1024") from None


def _paths(cases: Sequence[Case], output: Path | None) -> list[Path]:
    from nanscope.recording.sink import check_folder  # noqa: PLC0415 - loads h5py

    if output is None:
        paths = [case.run_path for case in cases]
    elif len(cases) == 1:
        paths = [output / cases[0].run_path.name if output.is_dir() else output]
    elif output.suffix:
        raise UsageError(f"{output} is one file for {len(cases)} cases", "give a folder")
    else:
        paths = [output / case.run_path.name for case in cases]
    for folder in {path.parent: path for path in paths}.values():
        check_folder(folder)
    return paths


def _train(cases: Sequence[Case], paths: Sequence[Path], *, keep_batch: bool) -> list[Path]:
    """The run files of the cases that were trained."""
    from nanscope.experiment.data import load_dataset  # noqa: PLC0415 - loads torch
    from nanscope.experiment.loop import train as train_case  # noqa: PLC0415 - loads torch
    from nanscope.reporters.progress import ProgressLine  # noqa: PLC0415 - loads rich

    warnings.showwarning = _warn
    dataset = load_dataset(cases[0])
    files = []
    for case, path in zip(cases, paths, strict=True):
        with ProgressLine(case.label, sys.stderr) as show:
            outcome = train_case(case, dataset, path, show, keep_batch=keep_batch)
        if outcome.path is not None:
            files.append(outcome.path)
        if outcome.interrupted:
            _stop_after(outcome.path)
    return files


def _stop_after(path: Path | None) -> NoReturn:
    kept = "" if path is None else f"; what was recorded: nanscope diagnose {path}"
    click.echo(f"nanscope: interrupted{kept}", err=True)
    sys.exit(INTERRUPTED)


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    click.echo(str(message), err=True)
