"""Frames: which panes a screen of a size is made of, put together to one picture."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from nanscope.raster.cells import Cells
from nanscope.raster.lane import LABELS
from nanscope.raster.palette import BAD_BACK, BAD_FORE, RULE
from nanscope.replay.place import Place
from nanscope.tui.keys import FOOTER, LIVE_FOOTER, PLAIN
from nanscope.tui.panes import (
    cause,
    chrome,
    compare,
    focus,
    heatmap,
    layer,
    loss,
    manual,
    predict,
    raw,
    words,
)
from nanscope.tui.scene import Scene

Pane = Callable[[Scene, int, int], Cells]
SIDE = 42
"""Cells of the panes at the right of a wide screen."""
WIDE = 100
NARROW = 80

DRAWN: Mapping[str, Pane] = {
    "loss": loss.loss,
    "heat": heatmap.heatmap,
    "focus": focus.focus,
    "findings": words.findings,
    "why": words.why,
    "classes": predict.classes,
    "compare": compare.compare,
    "layer": layer.layer,
    "strip": predict.strip,
    "confusion": predict.confusion,
    "worst": predict.worst,
    "cause": cause.cause,
    "event": cause.event,
    "raw": raw.raw,
    "help": manual.manual,
    "line": focus.focus_line,
    "brief": words.findings_line,
    "chosen": partial(words.findings, chosen=True),
}
PANES: Mapping[int, tuple[str, ...]] = {
    0: ("help",),
    1: ("heat", "loss", "findings"),
    2: ("compare",),
    3: ("heat", "layer"),
    4: ("strip", "classes", "confusion", "worst"),
    5: ("findings", "cause"),
    6: ("raw",),
}
"""The panes of each screen that take the focus, in its order."""


@dataclass(frozen=True, slots=True)
class Rect:
    """A pane on the screen."""

    pane: str
    top: int
    left: int
    height: int
    width: int

    def holds(self, row: int, column: int) -> bool:
        """Whether a cell is in it."""
        return self.top <= row < self.top + self.height and self.left <= column < self.left + self.width


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A picture.

    Attributes:
        errors: of panes that could not be drawn, with their tracebacks.
    """

    cells: Cells
    rects: tuple[Rect, ...]
    errors: tuple[str, ...] = ()


def draw(scene: Scene, height: int, width: int) -> Frame:
    """The whole screen."""
    cells = Cells.blank(height, width)
    if height < 8 or width < 40:
        for row, line in enumerate(tiny(scene, width)):
            cells.write(row, 0, line)
        return Frame(cells, ())
    head = 4 if height >= 16 else 3
    cells.put(0, 0, chrome.header(scene, 1, width))
    cells.put(1, 0, chrome.timeline(scene, head, width))
    cells.put(height - 2, 0, chrome.verdict(scene, 1, width))
    cells.put(height - 1, 0, chrome.footer(scene, entries(scene), width))
    rects = layout(scene.place, height - head - 3, width, head + 1)
    errors: list[str] = []
    for rect in rects:
        cells.put(rect.top, rect.left, _drawn(scene, rect, errors))
        if rect.left:
            cells.glyphs[rect.top : rect.top + rect.height, rect.left - 1] = scene.glyphs.bar
            cells.fore[rect.top : rect.top + rect.height, rect.left - 1] = RULE
    _mark_focus(scene, cells, rects)
    return Frame(cells, (Rect("timeline", 1, 0, head, width), *rects), tuple(errors))


def _drawn(scene: Scene, rect: Rect, errors: list[str]) -> Cells:
    """A pane; if it cannot be drawn one line that says so, and the others go on."""
    try:
        return DRAWN[rect.pane](scene, rect.height, rect.width)
    except Exception as error:  # noqa: BLE001 - one pane's trouble is not the others'
        errors.append(traceback.format_exc())
        cells = Cells.blank(rect.height, rect.width)
        text = f" {rect.pane}: {type(error).__name__}: {error}   Y copies details "
        cells.write(0, 0, text, BAD_FORE, BAD_BACK)
        return cells


def _mark_focus(scene: Scene, cells: Cells, rects: Sequence[Rect]) -> None:
    names = PANES[scene.place.screen]
    name = names[scene.place.pane % len(names)]
    rect = next(
        (each for each in rects if each.pane in (name, "chosen" if name == "findings" else name)), None
    )
    if rect is not None and len(names) > 1 and cells.glyphs[rect.top, rect.left] == " ":
        cells.write(rect.top, rect.left, scene.glyphs.here, BAD_FORE)


def layout(place: Place, height: int, width: int, top: int) -> tuple[Rect, ...]:
    """Where the panes of a screen stand; on a small one only some of them."""
    names = PANES[place.screen]
    alone = (Rect(names[place.pane % len(names)], top, 0, height, width),)
    if place.zoomed or height < 10:
        return alone
    if place.screen == 1:
        return _overview(height, width, top)
    if place.screen == 4:
        return _predict(height, width, top)
    if place.screen == 5:
        return _why(height, width, top)
    if place.screen == 3 and width >= NARROW:
        half = width // 2
        return Rect("heat", top, 0, height, half - 1), Rect("layer", top, half, height, width - half)
    return alone


def _why(height: int, width: int, top: int) -> tuple[Rect, ...]:
    if width < WIDE:
        part = max(4, height // 3)
        return Rect("chosen", top, 0, part, width), Rect("cause", top + part, 0, height - part, width)
    part, upper = min(56, width * 2 // 5), max(6, height // 2)
    return (
        Rect("chosen", top, 0, upper, part - 1),
        Rect("event", top + upper, 0, height - upper, part - 1),
        Rect("cause", top, part, height, width - part),
    )


def _overview(height: int, width: int, top: int) -> tuple[Rect, ...]:
    left = width - SIDE if width >= WIDE else width
    upper = max(5, min(14, height * 2 // 5))
    if width < WIDE:
        lines = height - upper - 2
        return (
            Rect("loss", top, 0, upper, width),
            Rect("heat", top + upper, 0, lines, width),
            Rect("line", top + upper + lines, 0, 1, width),
            Rect("brief", top + upper + lines + 1, 0, 1, width),
        )
    focus_rows = min(15, height // 2)
    rest = height - focus_rows
    events = max(4, rest // 3)
    whys = max(4, rest // 3)
    side = [("focus", focus_rows), ("findings", events), ("why", whys), ("classes", rest - events - whys)]
    rects, row = (
        [Rect("loss", top, 0, upper, left - 1), Rect("heat", top + upper, 0, height - upper, left - 1)],
        top,
    )
    for name, rows in side:
        if rows > 1:
            rects.append(Rect(name, row, left, rows, SIDE))
        row += rows
    return tuple(rects)


def _predict(height: int, width: int, top: int) -> tuple[Rect, ...]:
    upper = max(5, min(13, height // 2))
    lower = height - upper
    if width < WIDE:
        half = width // 2
        return (
            Rect("strip", top, 0, upper, width),
            Rect("classes", top + upper, 0, lower, half - 1),
            Rect("confusion", top + upper, half, lower, width - half),
        )
    third = width // 4
    return (
        Rect("strip", top, 0, upper, width),
        Rect("classes", top + upper, 0, lower, third + 9),
        Rect("confusion", top + upper, third + 10, lower, width - 2 * third - 6),
        Rect("worst", top + upper, width - third + 5, lower, third - 5),
    )


def columns_of(frame: Frame, scene: Scene) -> int:
    """Columns of the widest plot of a picture: what a move by one column is counted in."""
    cases = len(scene.desk.cases)
    rooms = {
        "loss": lambda width: width - loss.margin(scene, width) - 1,
        "layer": lambda width: width - LABELS - 1,
        "compare": lambda width: (
            width // cases - compare.NAMES - 1 if width >= compare.STACKED else width - LABELS
        ),
    }
    found = [rooms[rect.pane](rect.width) for rect in frame.rects if rect.pane in rooms]
    return max(1, *found) if found else frame.cells.width


def entries(scene: Scene) -> list[tuple[str, str, bool]]:
    """The footer: keys, words, and whether they make sense now."""
    found = []
    for name in LIVE_FOOTER if scene.case.is_live else FOOTER:
        action, label, sense = scene.actions[name], scene.actions[name].label, scene.case.rows > 1
        if name == "play" and scene.speed:
            label = "Pause"
        elif name == "first_bad":
            sense = scene.case.diagnosis.origin is not None
        elif name == "run_forward":
            label, sense = (f"to {scene.condition}" if scene.condition else label), bool(scene.condition)
        elif name in ("help", "quit"):
            sense = True
        keys = action.shown if scene.glyphs.bar != "|" else PLAIN.get(action.shown, action.shown)
        found.append((keys, label, sense))
    return found


def tiny(scene: Scene, width: int) -> list[str]:
    """Everything there is room for on a tiny screen: one line, or a line per fact."""
    case, place = scene.case, scene.place
    if not case.rows:
        return ["this run holds no steps"]
    born = case.diagnosis.origin
    facts = [
        f"step {case.step(place.row)}/{case.step(case.rows - 1)}",
        f"first NaN @{born.step} {born.module}" if born else case.view.standing.word,
    ]
    whole = "  ".join(facts)
    return [whole] if len(whole) <= width else facts
