"""The command line: wiring only. What is heavy is imported by the command that needs it.

Exit codes: 0 done or healthy, 1 findings of severity error, 2 usage, 3 unreadable file, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from nanscope import __version__
from nanscope.errors import NanscopeError, UsageError
from nanscope.experiment.cases import ACTIVATIONS, DATASETS, OPTIMIZERS, Case, batch_size_of
from nanscope.values import Diagnosis, Severity

INTERRUPTED = 130
FORMATS = ("text", "json")

run_argument = click.argument("run", type=click.Path(path_type=Path))
format_option = click.option(
    "--format", "form", type=click.Choice(FORMATS), default="text", show_default=True
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="nanscope")
def cli() -> None:
    """Which step, which tensor, and why: divergence diagnosis for PyTorch training."""


@cli.command()
@click.option(
    "--batch-size", "sizes", multiple=True, metavar="N|full", default=("32",), show_default=True,
    help="Rows per update; full is true batch gradient descent. Repeat it for several cases.",
)  # fmt: skip
@click.option("--lr", type=float, default=0.1, show_default=True, help="Learning rate.")
@click.option("--epochs", type=int, default=30, show_default=True, help="Passes over the training data.")
@click.option("--dataset", type=click.Choice(DATASETS), default="digits", show_default=True)
@click.option(
    "--data-dir", type=click.Path(path_type=Path), default=Path("data"), show_default=True,
    help="Folder of mnist and fashion-mnist, as torchvision lays it out; digits needs none.",
)  # fmt: skip
@click.option("--optimizer", type=click.Choice(OPTIMIZERS), default="sgd", show_default=True)
@click.option("--momentum", type=float, default=0.0, show_default=True, help="For sgd and rmsprop.")
@click.option("--hidden", default="1024,1024", show_default=True, metavar="N,N,...", help="Hidden widths.")
@click.option("--activation", type=click.Choice(ACTIVATIONS), default="relu", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
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
    "-o", "--output", type=click.Path(path_type=Path),
    help="The run file; with several cases, a folder.  [default: runs/<dataset>-bs<N>.h5]",
)  # fmt: skip
def train(sizes: tuple[str, ...], hidden: str, output: Path | None, **settings: Any) -> None:
    """Train the batch-size experiment, record every step, and explain how it ended."""
    widths = tuple(_width(word) for word in hidden.split(","))
    cases = [Case(batch_size=batch_size_of(size), hidden=widths, **settings) for size in sizes]
    paths = _paths(cases, output)
    files = _train(cases, paths)
    if not files:
        raise UsageError(
            "nothing was recorded, so there is nothing to explain", "choose another place with -o"
        )
    if len(files) == 1:
        _answer(files[0], "text")
    else:
        _compare(files, "text")


@cli.command()
@run_argument
@format_option
def diagnose(run: Path, form: str) -> NoReturn:
    """Say what happened in RUN, where, when and why, and what to try."""
    sys.exit(_exit_code([_answer(run, form)]))


@cli.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@format_option
def compare(runs: tuple[Path, ...], form: str) -> NoReturn:
    """Set the cases of an experiment side by side."""
    if len(runs) < 2:
        raise UsageError(
            "one run has nothing to be compared with", f"name another, or: nanscope diagnose {runs[0]}"
        )
    sys.exit(_exit_code(_compare(runs, form)))


@cli.command()
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@click.option("--once", is_flag=True, help="Print the answer as text and leave.")
def replay(runs: tuple[Path, ...], once: bool) -> NoReturn:
    """Show RUNS, by default the newest below runs/; several side by side. Prints the answer as text."""
    del once  # there is no full-screen replay yet: text is all there is
    if len(runs) > 1:
        sys.exit(_exit_code(_compare(runs, "text")))
    sys.exit(_exit_code([_answer(runs[0] if runs else _newest(), "text")]))


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


def _train(cases: Sequence[Case], paths: Sequence[Path]) -> list[Path]:
    """The run files of the cases that were trained."""
    from nanscope.experiment.data import load_dataset  # noqa: PLC0415 - loads torch
    from nanscope.experiment.loop import train as train_case  # noqa: PLC0415 - loads torch
    from nanscope.reporters.progress import ProgressLine  # noqa: PLC0415 - loads rich

    warnings.showwarning = _warn
    dataset = load_dataset(cases[0])
    files = []
    for case, path in zip(cases, paths, strict=True):
        with ProgressLine(case.label, sys.stderr) as show:
            outcome = train_case(case, dataset, path, show)
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


def _answer(path: Path, form: str) -> Diagnosis:
    from nanscope.diagnosis import diagnose as diagnose_run  # noqa: PLC0415 - loads numpy
    from nanscope.reporters import REPORTERS  # noqa: PLC0415 - loads rich
    from nanscope.store.reader import open_run  # noqa: PLC0415 - loads h5py
    from nanscope.view import build_view  # noqa: PLC0415 - loads numpy

    run = open_run(path)
    diagnosis = diagnose_run(run)
    REPORTERS[form](build_view(run, diagnosis), sys.stdout)
    return diagnosis


def _compare(paths: Sequence[Path], form: str) -> list[Diagnosis]:
    from nanscope.diagnosis import diagnose as diagnose_run  # noqa: PLC0415 - loads numpy
    from nanscope.reporters import COMPARISON_REPORTERS  # noqa: PLC0415 - loads rich
    from nanscope.store.reader import open_run  # noqa: PLC0415 - loads h5py
    from nanscope.view import build_comparison  # noqa: PLC0415 - loads numpy

    runs = [open_run(path) for path in paths]
    diagnoses = [diagnose_run(run) for run in runs]
    comparison = build_comparison(list(zip(runs, diagnoses, strict=True)))
    COMPARISON_REPORTERS[form](comparison, sys.stdout)
    return diagnoses


def _newest() -> Path:
    files = sorted(Path("runs").glob("*.h5"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise UsageError("no run file below runs/", "name one, or make one: nanscope train --batch-size 1")
    return files[-1]


def _exit_code(diagnoses: Sequence[Diagnosis]) -> int:
    findings = [finding.severity for diagnosis in diagnoses for finding in diagnosis.findings]
    return int(Severity.ERROR in findings)


def main() -> NoReturn:
    """Run the command line: every expected error is one line on stderr, and the exit code that it names."""
    try:
        cli.main(prog_name="nanscope", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "")
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "nanscope"
        _fail(f"{error.format_message()} See {command} --help", error.exit_code)
    except NanscopeError as error:
        _fail(str(error), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)


def _fail(text: str, code: int) -> NoReturn:
    line = "".join(c if c.isprintable() else "?" for c in text)
    click.echo(f"nanscope: {line}", err=True)
    sys.exit(code)
