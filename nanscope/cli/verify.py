"""`nanscope diagnose RUN --verify`: train a run of the experiment again and try changes on its last steps."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import click

from nanscope.cli.options import INTERRUPTED
from nanscope.diagnosis import diagnose
from nanscope.errors import UsageError
from nanscope.experiment.cases import case_of
from nanscope.experiment.data import load_dataset
from nanscope.experiment.loop import train
from nanscope.reporters import REPORTERS
from nanscope.reporters.progress import ProgressLine
from nanscope.run import Run
from nanscope.store.reader import open_run
from nanscope.values import Diagnosis
from nanscope.view import build_view


def tell_verified(path: Path, form: str) -> Diagnosis:
    """Print the diagnosis of a run with the outcome of each remedy; the run file stays as it is.

    Raises:
        UsageError: the run cannot be trained again, did not diverge, or went another way when it was.
    """
    run = open_run(path)
    before = diagnose(run)
    if before.origin is None:
        raise UsageError(f"{path} did not diverge: there is nothing to prevent", f"nanscope diagnose {path}")
    with tempfile.TemporaryDirectory() as folder:
        again = _trained(run, Path(folder) / path.name)
        diagnosis = diagnose(again)
        if diagnosis.origin is None or diagnosis.origin.step != before.origin.step:
            raise UsageError(
                f"{path} went another way when it was trained again: other versions or hardware",
                f"nanscope diagnose {path}",
            )
        REPORTERS[form](build_view(replace(again, name=run.name), diagnosis), sys.stdout)
    return diagnosis


def _trained(run: Run, path: Path) -> Run:
    case = replace(case_of(run.header.config), aftermath=run.header.config["aftermath"])
    dataset = load_dataset(case)
    click.echo(f"nanscope: training {case.label} again, up to the step that broke", err=True)
    with ProgressLine(case.label, sys.stderr) as show:
        outcome = train(case, dataset, path, show, verify=True)
    if outcome.interrupted or outcome.path is None:
        sys.exit(INTERRUPTED)
    return open_run(outcome.path)
