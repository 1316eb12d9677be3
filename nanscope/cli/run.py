"""`nanscope run`: any script, unchanged, with what it trains recorded."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from nanscope.errors import NanscopeError, UsageError

if TYPE_CHECKING:
    from nanscope.recording.discovery import Found

TAKING = ("-o", "--output", "--on-nonfinite")
"""Options of ours that a value follows."""


class _Script(click.Command):
    """All that comes after the script's name, or after `-m MODULE`, belongs to the script."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ours: list[str] = []
        rest = list(args)
        while rest and rest[0].startswith("-") and rest[0] not in ("-m", "--"):
            ours.append(rest.pop(0))
            if ours[-1] in TAKING and rest:
                ours.append(rest.pop(0))
        if rest[:1] == ["-m"]:
            ours, rest = [*ours, "--module"], rest[1:]
        return super().parse_args(ctx, [*ours, *(["--", *rest] if rest[:1] != ["--"] else rest)])


@click.command(cls=_Script, options_metavar="[OPTIONS] [-m]")
@click.argument("script")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path),
    help="The run file, or a folder for it; by default runs/NAME.h5 after the script.",
)  # fmt: skip
@click.option(
    "--on-nonfinite", type=click.Choice(["record", "raise", "stop"]), default="record", show_default=True,
    help="At a non-finite loss, gradient or weight: go on, raise into the script, or end it (exit code 1).",
)  # fmt: skip
@click.option(
    "--verify", is_flag=True,
    help="Where it turns non-finite, try changes on the steps before; prove which would have prevented it.",
)  # fmt: skip
@click.option("--no-batch", is_flag=True, help="Keep no data of the bad step in the run file.")
@click.option("--module", is_flag=True, hidden=True, help="SCRIPT is the name of a module.")
def run(
    script: str, arguments: tuple[str, ...], *, output: Path | None, on_nonfinite: str, verify: bool,
    no_batch: bool, module: bool,
) -> NoReturn:  # fmt: skip
    """Run SCRIPT with its ARGUMENTS as `python` would, and say what happened in its training.

    Models, optimizers and losses are found by themselves; of several models each has a run file. `-m MODULE`
    runs a module. The script's own output and exit code are left as they are; the answer goes to stderr.
    """
    if not module and not Path(script).is_file():
        raise UsageError(f"{script} is no file", "name a Python script, or write -m MODULE")
    from nanscope.recording import script as scripts  # noqa: PLC0415 - loads torch
    from nanscope.recording.sink import check_folder  # noqa: PLC0415 - loads h5py

    name = script.rpartition(".")[2] if module else Path(script).stem
    path = output or Path("runs") / f"{name}.h5"
    path = path / f"{name}.h5" if path.is_dir() else path
    check_folder(path.parent)
    way = scripts.as_way(on_nonfinite)
    ended: list[int] = []
    atexit.register(_interrupted, ended)  # before those of the script, so it is called after them
    process = os.getpid()
    options = {"verify_remedies": verify, "keep_batch": not no_batch}
    code, found = scripts.run(script, arguments, path, is_module=module, on_nonfinite=way, **options)
    ended.append(code)
    with contextlib.suppress(AttributeError, OSError, ValueError):  # the script has closed it
        sys.stdout.flush()
    if os.getpid() == process:  # not in a child that the script has forked
        _tell(found)
    sys.exit(code)


def _interrupted(ended: Sequence[int]) -> None:
    """Die of the signal, as Python does, so that a shell that runs the script stops, too."""
    if ended == [-signal.SIGINT]:
        with contextlib.suppress(AttributeError, OSError, ValueError):
            sys.stdout.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)


def _tell(found: Sequence[Found]) -> None:
    """What happened to each model, the ones in trouble in full."""
    from nanscope.diagnosis import diagnose  # noqa: PLC0415 - loads numpy
    from nanscope.reporters import REPORTERS  # noqa: PLC0415 - loads rich
    from nanscope.store.reader import open_run  # noqa: PLC0415 - loads h5py
    from nanscope.values import Verdict  # noqa: PLC0415 - with the others
    from nanscope.view import build_view  # noqa: PLC0415 - loads numpy

    if not found:
        click.echo("nanscope: no model was trained, so nothing was recorded", err=True)
    for each in found:
        if each.path is None:
            click.echo(f"nanscope: {each.name} could not be recorded", err=True)
            continue
        try:
            opened = open_run(each.path)
            diagnosis = diagnose(opened)
        except NanscopeError as error:  # moved or removed by the script, whose exit code is to be kept
            click.echo(f"nanscope: {error}", err=True)
            continue
        if len(found) > 1 and diagnosis.verdict is Verdict.HEALTHY:
            click.echo(f"nanscope: {each.name}: {diagnosis.summary} ({each.path})", err=True)
            continue
        if len(found) > 1:
            click.echo(f"\nnanscope: {each.name}", err=True)
        REPORTERS["text"](build_view(opened, diagnosis), sys.stderr)
