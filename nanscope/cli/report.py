"""`nanscope report`: the answer for one run as a web page."""

from __future__ import annotations

from pathlib import Path

import click

from nanscope.cli.options import run_argument
from nanscope.cli.output import force_option, new_file


@click.command()
@run_argument
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="A new file; by default RUN with .html at its end.",
)
@force_option
def report(run: Path, output: Path | None, force: bool) -> None:
    """Write what happened in RUN as one web page, with charts, to keep or to send."""
    from nanscope.replay.cases import open_case  # noqa: PLC0415 - loads h5py
    from nanscope.reporters.page import page_of  # noqa: PLC0415 - loads numpy

    path = output or run.with_suffix(".html")
    case = open_case(run)
    with new_file(path, force=force) as out:
        out.write(page_of(case).encode())
    click.echo(f"wrote {path}")
