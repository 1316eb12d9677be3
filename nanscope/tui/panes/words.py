"""Panes of words: the findings, why it happened, what to try."""

from __future__ import annotations

import textwrap

from nanscope.raster.cells import Cells, fit_end
from nanscope.raster.palette import BAD_BACK, BAD_FORE, DIM, FOCUS_BACK, STRONG, TEXT, WARN
from nanscope.replay.place import EVENTS
from nanscope.replay.stops import Stop
from nanscope.replay.why import no_cause
from nanscope.tui.scene import Scene, passes
from nanscope.values import Severity

WORDS = {Severity.ERROR: "ERR ", Severity.WARNING: "WARN", Severity.NOTE: "NOTE"}
Written = tuple[str, int, bool]
"""Text, colour, bold."""


def shown_stops(scene: Scene) -> tuple[Stop, ...]:
    """Findings, trail and marks of the case in focus that pass the filter."""
    return tuple(stop for stop in scene.stops if passes(scene.place.only, stop.what) or not scene.stops)


def findings(scene: Scene, height: int, width: int, *, chosen: bool = False) -> Cells:
    """A title and a line per event, the chosen one, or the last before the playhead, in sight."""
    cells = Cells.blank(height, width)
    stops = shown_stops(scene)
    column = cells.write(0, 1, "EVENTS", STRONG, bold=True)
    cells.write(0, column + 2, f"{len(stops)}   n N" if stops else "none: no rule fired", DIM)
    chosen = chosen or (in_list(scene) and scene.place.picked != 0)
    at = at_event(scene) if chosen else event_before(scene)
    first = max(0, min(len(stops) - (height - 1), at - (height - 1) // 2))
    for row, stop in enumerate(stops[first : first + height - 1], 1):
        here = first + row - 1 == at
        _event(cells, scene, row, stop, here=here, chosen=here and chosen)
    return cells


def event_before(scene: Scene) -> int:
    """Number of the last event up to the playhead; -1 before the first."""
    return sum(stop.row <= scene.place.row for stop in shown_stops(scene)) - 1


def at_event(scene: Scene) -> int:
    """Number of the chosen event: in a list so many lines from the one at the playhead, else that one."""
    at = max(0, event_before(scene)) + (scene.place.picked if in_list(scene) else 0)
    return max(0, min(at, len(shown_stops(scene)) - 1))


def in_list(scene: Scene) -> bool:
    """Whether the pane in focus lists events."""
    return (scene.place.screen, scene.place.pane) in EVENTS


def findings_line(scene: Scene, height: int, width: int) -> Cells:
    """Findings in one line, the worst first, for small screens."""
    cells = Cells.blank(height, width)
    stops = sorted(scene.stops, key=lambda each: -each.severity)
    column = cells.write(0, 1, f"events {len(stops)}:" if stops else "no rule fired", DIM) + 1
    for stop in stops:
        told = f"{scene.glyphs.severity(stop.severity)} {scene.case.step(stop.row)} {fit_end(stop.what, 32)}"
        bad = stop.severity is Severity.ERROR
        fore, back = (BAD_FORE, BAD_BACK) if bad else (TEXT, None)
        column = cells.write(0, column, told, fore, back) + 2
    return cells


def _event(cells: Cells, scene: Scene, row: int, stop: Stop, *, here: bool, chosen: bool) -> None:
    digits = len(str(scene.case.step(scene.case.rows - 1)))
    if chosen:
        cells.back[row] = FOCUS_BACK
    cells.write(row, 0, scene.glyphs.here if here else " ", STRONG, FOCUS_BACK if chosen else None)
    fore = (DIM, WARN, BAD_FORE)[stop.severity]
    back = BAD_BACK if stop.severity is Severity.ERROR else (FOCUS_BACK if chosen else None)
    column = cells.write(row, 1, f"{scene.glyphs.severity(stop.severity)} {WORDS[stop.severity]}", fore, back)
    column = cells.write(
        row, column, f" {scene.case.step(stop.row):>{digits}}  ", TEXT, FOCUS_BACK if chosen else None
    )
    text = fit_end(stop.what, cells.width - column - 1)
    cells.write(row, column, text, STRONG if here else TEXT, FOCUS_BACK if chosen else None)


def why(scene: Scene, height: int, width: int) -> Cells:
    """The causes in short."""
    cells = Cells.blank(height, width)
    column = cells.write(0, 1, "WHY", STRONG, bold=True)
    causes = scene.case.diagnosis.causes
    cells.write(0, column + 2, "5 shows all of it" if causes else "", DIM)
    lines: list[Written] = []
    for cause in sorted(causes, key=lambda each: each.rank):
        lines += [(f"{cause.rank} {cause.id}", STRONG, True)]
        lines += wrapped(cause.why, width - 3, "  ")
    if not causes:
        lines = wrapped(no_cause(scene.case), width - 2, "")
    write(cells, 1, lines)
    return cells


def wrapped(text: str, width: int, first: str) -> list[Written]:
    """Text in lines; the first begins with `first`, the others as far to the right."""
    lines = textwrap.wrap(text, max(10, width), break_long_words=True) or [""]
    return [(f"{first if i == 0 else ' ' * len(first)}{line}", TEXT, False) for i, line in enumerate(lines)]


def write(cells: Cells, row: int, lines: list[Written]) -> int:
    """Lines from a row on; gives the row after them. What does not fit is said."""
    room = cells.height - row
    for i, (text, fore, bold) in enumerate(lines[:room]):
        cells.write(row + i, 1, fit_end(text, cells.width - 1), fore, bold=bold)
    if len(lines) > room > 0:
        cells.write(
            cells.height - 1,
            1,
            f".. {len(lines) - room + 1} more lines: down, or z".ljust(cells.width - 1),
            DIM,
        )
    return row + min(room, len(lines))
