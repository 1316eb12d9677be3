"""The commands that say what happened in a run: `diagnose`, `compare`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from nanscope.cli.options import format_option, run_argument, runs_argument
from nanscope.errors import UsageError
from nanscope.values import Diagnosis, Severity

if TYPE_CHECKING:
    from nanscope.run import Run
    from nanscope.view import Overview


@click.command()
@run_argument
@format_option
@click.option(
    "--verify", is_flag=True,
    help="Train it again (a run of `nanscope train`), and prove which change would have prevented it.",
)  # fmt: skip
def diagnose(run: Path, form: str, verify: bool) -> NoReturn:
    """Say what happened in RUN, where, when and why, and what to try."""
    if verify:
        from nanscope.cli.verify import tell_verified  # noqa: PLC0415 - loads torch

        sys.exit(exit_code([tell_verified(run, form)]))
    sys.exit(exit_code([tell(run, form)]))


@click.command()
@runs_argument
@format_option
def compare(runs: tuple[Path, ...], form: str) -> NoReturn:
    """Set the cases of an experiment side by side."""
    if len(runs) < 2:
        raise UsageError(
            "one run has nothing to be compared with", f"name another, or: nanscope diagnose {runs[0]}"
        )
    sys.exit(exit_code(tell_all(runs, form)))


def tell(
    path: Path, form: str, overview: Callable[[Run, Diagnosis], Overview | None] | None = None
) -> Diagnosis:
    """Print the diagnosis of one run, with an overview of the whole of it where one is given."""
    from nanscope.diagnosis import diagnose as diagnose_run  # noqa: PLC0415 - loads numpy
    from nanscope.reporters import REPORTERS  # noqa: PLC0415 - loads rich
    from nanscope.store.reader import open_run  # noqa: PLC0415 - loads h5py
    from nanscope.view import build_view  # noqa: PLC0415 - loads numpy

    run = open_run(path)
    diagnosis = diagnose_run(run)
    view = build_view(run, diagnosis)
    if overview is not None:
        view = replace(view, overview=overview(run, diagnosis))
    REPORTERS[form](view, sys.stdout)
    return diagnosis


def tell_all(paths: Sequence[Path], form: str) -> list[Diagnosis]:
    """Print several runs side by side."""
    from nanscope.diagnosis import diagnose as diagnose_run  # noqa: PLC0415 - loads numpy
    from nanscope.reporters import COMPARISON_REPORTERS  # noqa: PLC0415 - loads rich
    from nanscope.store.reader import open_run  # noqa: PLC0415 - loads h5py
    from nanscope.view import build_comparison  # noqa: PLC0415 - loads numpy

    runs = [open_run(path) for path in paths]
    diagnoses = [diagnose_run(run) for run in runs]
    comparison = build_comparison(list(zip(runs, diagnoses, strict=True)))
    COMPARISON_REPORTERS[form](comparison, sys.stdout)
    return diagnoses


def exit_code(diagnoses: Sequence[Diagnosis]) -> int:
    """1 if something of severity error was found, else 0."""
    findings = [finding.severity for diagnosis in diagnoses for finding in diagnosis.findings]
    return int(Severity.ERROR in findings)
