"""What several commands take."""

from __future__ import annotations

from pathlib import Path

import click

FORMATS = ("text", "json")
INTERRUPTED = 130  # exit code

run_argument = click.argument("run", type=click.Path(path_type=Path))
runs_argument = click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
format_option = click.option(
    "--format", "form", type=click.Choice(FORMATS), default="text", show_default=True,
    help="Text to read, or JSON for a program.",
)  # fmt: skip


def complain(text: str) -> None:
    """Tell of a mistake or a bad file: one line on standard error, whatever names are in it."""
    line = "".join(c if c.isprintable() else "?" for c in text)
    click.echo(f"nanscope: {line}", err=True)
