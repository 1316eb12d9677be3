"""`nanscope replay`: the run on the screen."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from nanscope.cli.answers import exit_code, tell, tell_all
from nanscope.errors import UsageError

if TYPE_CHECKING:
    from nanscope.replay.link import Link


@click.command()
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@click.option("--case", type=click.IntRange(1), help="Look at this one of several runs first.")
@click.option("--at", type=int, metavar="STEP", help="Begin at this step.")
@click.option("--layer", metavar="NAME", help="Begin at this layer.")
@click.option("--window", metavar="FIRST:LAST", help="Begin with these steps in sight.")
@click.option("--screen", type=click.IntRange(1, 6), help="Begin with this screen.")
@click.option("--once", is_flag=True, help="Print the answer as text and leave.")
@click.option("--alone", is_flag=True, help="Do not look for runs with other batch sizes beside it.")
@click.option(
    "--graph", type=click.Choice(["auto", "braille", "block", "ascii"]), default="auto",
    help="What plots are drawn with.",
)  # fmt: skip
@click.option("--web", is_flag=True, help="Show it in a browser on this machine.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="For --web; by default any free one.")
@click.option("--no-browser", is_flag=True, help="For --web: print the address and open nothing.")
@click.option("--no-mouse", is_flag=True, help="Leave the mouse to the terminal.")
def replay(
    runs: tuple[Path, ...], *, case: int | None, at: int | None, layer: str | None, window: str | None,
    screen: int | None, once: bool, alone: bool, graph: str, no_mouse: bool,
    web: bool, port: int, no_browser: bool,
) -> NoReturn:  # fmt: skip
    """Walk through RUNS, files or folders, step by step; by default the newest below runs/.

    The other batch sizes of the same experiment are found in its folder. Without a terminal the answer is
    printed as text.
    """
    from nanscope.replay.cases import files_of, newest  # noqa: PLC0415 - loads numpy and h5py
    from nanscope.replay.link import Link  # noqa: PLC0415 - the same

    paths = files_of(runs) if runs else [newest()]
    if web:
        words = _words(case, at, layer, window, screen) + ["--alone"] * alone + ["--graph", graph]
        _serve([*words, *map(str, paths)], port, open_browser=not no_browser)
        sys.exit(0)
    if once or not _is_shown():
        sys.exit(_print(paths))
    link = Link(at, layer, window, screen)
    sys.exit(_show(paths, case, link, graph=graph, alone=alone, mouse=not no_mouse))


def _is_shown() -> bool:
    """Whether somebody looks: at a terminal, or at a page that `--web` serves."""
    in_browser = os.environ.get("TEXTUAL_DRIVER", "").startswith("textual.drivers.web_driver")
    return in_browser or (sys.stdin.isatty() and sys.stdout.isatty())


def _words(*values: object) -> list[str]:
    """The options that say where to begin, as they were given."""
    names = ("--case", "--at", "--layer", "--window", "--screen")
    pairs = zip(names, values, strict=True)
    return [word for name, value in pairs if value is not None for word in (name, str(value))]


def _serve(words: Sequence[str], port: int, *, open_browser: bool) -> None:
    try:
        from nanscope.web.server import serve  # noqa: PLC0415 - needs the extra
    except ImportError:
        raise UsageError("--web needs textual-serve", "pip install 'nanscope[web]'") from None
    serve(words, port=port, open_browser=open_browser)


def _show(
    paths: Sequence[Path], case: int | None, link: Link, *, graph: str, alone: bool, mouse: bool
) -> int:
    """Open the runs on the whole screen; gives the exit code."""
    from nanscope.raster.palette import choose  # noqa: PLC0415 - loads numpy
    from nanscope.replay.cases import open_case, ordered  # noqa: PLC0415 - loads h5py
    from nanscope.replay.link import opened  # noqa: PLC0415 - the same
    from nanscope.tui.app import ReplayApp  # noqa: PLC0415 - loads textual
    from nanscope.tui.keys import config_path, remapped  # noqa: PLC0415 - the same
    from nanscope.tui.session import Options, Session  # noqa: PLC0415 - the same

    cases = [open_case(path) for path in paths]
    if case is not None and case > len(cases):
        raise UsageError(f"--case {case}: there are {len(cases)}", "count them from 1, as they are named")
    focus = cases[(case or 1) - 1]
    seated = cases if case is not None else ordered(cases)
    how = choose(graph, os.environ, sys.stdout.encoding or "ascii")
    slow = "SSH_CONNECTION" in os.environ
    options = Options(how, "NO_COLOR" not in os.environ, alone or len(cases) > 1, 10 if slow else 15)
    session = Session(seated, options, seated.index(focus))
    session.place = opened(session.place, focus, link)
    actions, notice = remapped(config_path(os.environ))
    app = ReplayApp(session, actions=actions, notice=notice, mouse=mouse)
    app.run(mouse=mouse)
    return app.return_code or 0


def _print(paths: Sequence[Path]) -> int:
    """The answer as text, with a heat map of the whole run; several runs side by side."""
    from nanscope.tui.panes.overview import overview_of  # noqa: PLC0415 - loads numpy

    diagnoses = tell_all(paths, "text") if len(paths) > 1 else [tell(paths[0], "text", overview_of)]
    return exit_code(diagnoses)
