"""The commands on the run file itself: `export`."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import click

from nanscope.cli.options import run_argument
from nanscope.cli.output import new_file
from nanscope.errors import UsageError

TABLES = ("csv", "parquet")
_DIGITS = 18  # of the largest step; int() itself refuses thousands of digits, with a traceback


def _steps(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[int | None, int | None]:
    first, colon, end = text.partition(":")
    if colon != ":" or not all(
        not word or (word.isdecimal() and len(word) <= _DIGITS) for word in (first, end)
    ):
        raise UsageError(f"{text!r} is no range of steps", "write it like --steps 100:200, 100: or :200")
    return int(first) if first else None, int(end) if end else None


@click.command()
@run_argument
@click.option("--to", "form", type=click.Choice(TABLES), default="csv", show_default=True, help="The format.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path),
    help="A new file.  [default for csv: standard output]",
)  # fmt: skip
@click.option(
    "--sites", "patterns", multiple=True, metavar="PATTERN",
    help="Only these sites, series or scalars, such as 'fc2.*', '*.l2' or loss; may be repeated.",
)  # fmt: skip
@click.option(
    "--steps", default=":", metavar="A:B", callback=_steps,
    help="Only the steps from A on and before B; either may be left out.",
)  # fmt: skip
def export(
    run: Path, form: str, output: Path | None, patterns: tuple[str, ...], steps: tuple[int | None, int | None]
) -> None:
    """Write RUN as a table: a row per step, a column per series; what was not measured is left empty."""
    from nanscope.export import WRITERS, select  # noqa: PLC0415 - loads numpy
    from nanscope.numbers import count, size  # noqa: PLC0415
    from nanscope.reporters.bar import Bar  # noqa: PLC0415 - loads rich
    from nanscope.store.reader import open_run  # noqa: PLC0415 - loads h5py

    if output is None and form != "csv":
        raise UsageError(f"{form} goes into a file", f"name it: nanscope export {run} --to {form} -o FILE")
    recorded = open_run(run)
    selection = select(recorded, patterns, steps)
    with _destination(output) as out, Bar(recorded.name, "rows", sys.stderr) as show:
        WRITERS[form](recorded, selection, out, show)
    if output is not None:
        table = (
            f"{count(selection.stop - selection.start)} steps, {count(2 + len(selection.columns))} columns"
        )
        click.echo(f"{table}, {size(output.stat().st_size)}: {output}")
        click.echo(f"\nnanscope diagnose {shlex.quote(str(run))}")


@contextlib.contextmanager
def _destination(path: Path | None) -> Iterator[IO[bytes]]:
    if path is not None:
        with new_file(path) as out:
            yield out
        return
    try:
        with open(sys.stdout.fileno(), "wb", closefd=False) as out:
            yield out
    except BrokenPipeError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"cannot write to standard output ({reason})", "write a file with -o") from error
