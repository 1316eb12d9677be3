"""What leaves the program: words for the clipboard, files in the current folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from nanscope.replay import link
from nanscope.replay.readout import readout
from nanscope.tui.panes.chrome import verdict_words
from nanscope.tui.panes.raw import as_tsv
from nanscope.tui.scene import Scene

RAW = 6


def copied(scene: Scene, errors: Sequence[str]) -> str:
    """Errors of panes, else the rows of Raw, else this place as a command line with what is read there."""
    if errors:
        return "\n".join(errors)
    if scene.place.screen == RAW:
        return as_tsv(scene)
    told = readout(scene.case, scene.place, scene.axis)
    lines = [f"{line.label}: {line.value} {line.aside}".rstrip() for line in told]
    return "\n".join([link.command(scene.place, scene.desk.cases), verdict_words(scene), *lines])


def report(scene: Scene) -> Path:
    """Write the window as a page; gives its path."""
    from nanscope.reporters.page import write_page  # noqa: PLC0415 - only who asks for it

    path = Path(free_name(scene.case.path.stem, "html"))
    write_page(scene.case, scene.place, path)
    return path


def free_name(stem: str, ending: str) -> str:
    """A name in the current folder that is not taken."""
    names = (f"{stem}{f'-{i}' if i else ''}.{ending}" for i in range(1_000))
    return next(name for name in names if not os.path.lexists(name))
