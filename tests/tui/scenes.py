"""Scenes without a file and without a terminal: the story's cases in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from nanscope.diagnosis import diagnose
from nanscope.replay.cases import Case
from nanscope.replay.place import Place
from nanscope.run import Run
from nanscope.tui.frame import Frame, draw
from nanscope.tui.scene import Desk, Scene, unit_for
from tests.replay import story

BATCHES = (1024, 32, 1)


@cache
def told(batch: int) -> Case:
    """A case of the story, with its diagnosis."""
    return case_of(story.case(batch))


def case_of(run: Run) -> Case:
    """Any run in memory as a case."""
    return Case(Path(run.name), run, diagnose(run))


@cache
def desk(batches: Sequence[int] = BATCHES) -> Desk:
    """The story's cases on one desk."""
    return Desk(tuple(told(batch) for batch in batches), ((),) * len(batches))


def scene(*, row: int = 0, batches: tuple[int, ...] = BATCHES, **changes: Any) -> Scene:
    """Batch size 1 in focus, the whole run in the window; `changes` are of the place or the scene."""
    return of(desk(batches), len(batches) - 1, row, **changes)


def of(on: Desk, case: int = 0, row: int = 0, **changes: Any) -> Scene:
    """A scene of any desk."""
    rows = on.cases[case].rows
    place = Place(case=case, row=row, rows=rows, stop=max(1, rows), unit=unit_for(on.cases))
    mine = {name: changes.pop(name) for name in tuple(changes) if name in Place.__dataclass_fields__}
    return Scene(on, replace(place, **mine), **changes)


def alone(run: Run, **changes: Any) -> Scene:
    """A scene of one run."""
    return of(Desk((case_of(run),), ((),)), **changes)


def text(shown: Scene, height: int = 36, width: int = 120) -> list[str]:
    """The screen as lines of text; every pane was drawn."""
    frame = whole(shown, height, width)
    return frame.cells.lines()


def whole(shown: Scene, height: int = 36, width: int = 120) -> Frame:
    """The screen, on which every pane was drawn."""
    frame = draw(shown, height, width)
    assert not frame.errors, frame.errors[0]
    return frame


def plain(lines: Sequence[str]) -> str:
    """Lines as one text, thousands joined: for what is searched in them."""
    return "\n".join(lines).replace(",", "")
