"""What stands on every screen: header, timeline, verdict, footer."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from nanscope.numbers import duration
from nanscope.raster.cells import PLAIN, Cells, fit, fit_end
from nanscope.raster.heat import rail
from nanscope.raster.palette import BAD_BACK, BAD_FORE, DIM, HEAD_BACK, RULE, STRONG, TEXT, WARN
from nanscope.replay.columns import edges_of
from nanscope.replay.link import SCREENS
from nanscope.replay.stops import first_bad
from nanscope.tui.scene import Scene, colour_of
from nanscope.values import Kind, Severity

LABEL = 9
ROUGH = 100  # from here on one more or less makes no difference
SHORT = {"Next event": "Event", "First NaN": "NaN", "Run to break": "Run", "Go to": "Goto"}
"""Words of the footer where there is little room."""
TABS = ("1Over", "2Cmp", "3Lay", "4Pred", "5Why", "6Raw")


def header(scene: Scene, height: int, width: int) -> Cells:
    """The run, the screens, the case, the player."""
    cells = Cells.blank(height, width)
    cells.back[:] = HEAD_BACK
    place, case = scene.place, scene.case
    column = cells.write(0, 1, "nanscope", STRONG, HEAD_BACK, bold=True) + 2
    right = _state(scene)
    cells.write(0, max(column, width - len(right) - 1), right, STRONG, HEAD_BACK)
    wide = width >= 110
    tabs = [f"{number} {name}" for number, name in enumerate(SCREENS[1:], 1)] if wide else TABS
    gap = 2 if wide else 1
    room = width - column - len(right) - 4 - sum(len(tab) + gap for tab in tabs)
    if room >= 6:
        path = str(case.path) if len(str(case.path)) <= room else case.path.name
        column = cells.write(0, column, fit(path, min(34, room)).rstrip(), TEXT, HEAD_BACK) + 2
    for number, tab in enumerate(tabs, 1):
        here = number == place.screen
        if column + len(tab) < width - len(right) - 1:
            word = tab.upper() if here else tab
            column = cells.write(0, column, word, STRONG if here else DIM, HEAD_BACK, bold=here) + gap
    return cells


def _state(scene: Scene) -> str:
    cases = scene.desk.cases
    case = f"{scene.case.label} [{scene.place.case + 1}/{len(cases)}]" if len(cases) > 1 else scene.case.label
    player = f"> PLAYING x{scene.speed:g}" if scene.speed else "|| PAUSED"
    return f"{case}  {scene.notice or player}"


def timeline(scene: Scene, height: int, width: int) -> Cells:
    """The whole run, what happened in it, and the window; a row each, then the steps."""
    cells = Cells.blank(height, width)
    room = width - LABEL - 1
    for row, word in enumerate(("run", "events", "window", str(scene.place.unit.value))[:height]):
        cells.write(row, 1, word, DIM)
    if not scene.case.rows or room < 10:
        return cells
    cells.put(0, LABEL, _run(scene, room))
    cells.put(1, LABEL, _events(scene, room))
    cells.put(2, LABEL, _window(scene, room))
    if height > 3:
        cells.put(3, LABEL, _ticks(scene, room))
    return cells


def _run(scene: Scene, width: int) -> Cells:
    """The loss of the whole run as a shade: where it stood high, and where it was not finite."""
    case = scene.case
    cells = Cells.blank(1, width)
    cells.glyphs[0], cells.fore[0] = scene.glyphs.shades[0], RULE
    name = "loss" if case.run.has(None, "loss") else next(iter(case.run.scalars), "")
    if not name:
        return cells
    read = case.reader.columns(None, name, edges_of(0, case.rows, width))
    with np.errstate(invalid="ignore", divide="ignore"):
        logs = np.log10(np.maximum(read.mean, 1e-30))
    usual = np.nanmedian(logs) if np.isfinite(logs).any() else 0.0
    level = np.clip(np.nan_to_num(logs - usual) / 2 + 0.5, 0, 3).astype(int)
    cells.glyphs[0] = np.array(list(scene.glyphs.shades))[level]
    cells.fore[0] = DIM
    bad = read.bad > 0
    marks = rail(bad, scene.look(width))
    for mine, its in zip(
        (cells.glyphs, cells.fore, cells.back, cells.bold),
        (marks.glyphs, marks.fore, marks.back, marks.bold),
        strict=True,
    ):
        mine[0][bad] = its[0][bad]
    return cells


def _column(scene: Scene, row: int, width: int) -> int:
    return min(width - 1, row * width // max(1, scene.case.rows))


def _events(scene: Scene, width: int) -> Cells:
    cells = Cells.blank(1, width)
    for stop in sorted(scene.stops, key=lambda each: each.severity):
        colour = (DIM, WARN, BAD_FORE)[stop.severity]
        back = BAD_BACK if stop.severity is Severity.ERROR else PLAIN
        cells.write(0, _column(scene, stop.row, width), scene.glyphs.severity(stop.severity), colour, back)
    return cells


def _window(scene: Scene, width: int) -> Cells:
    cells = Cells.blank(1, width)
    cells.glyphs[0], cells.fore[0] = scene.glyphs.dot, RULE
    first, last = (_column(scene, row, width) for row in (scene.place.start, scene.place.stop - 1))
    cells.glyphs[0, first : last + 1], cells.fore[0, first : last + 1] = scene.glyphs.rule, TEXT
    cells.write(0, _column(scene, scene.place.row, width), scene.glyphs.up, STRONG, bold=True)
    return cells


def _ticks(scene: Scene, width: int) -> Cells:
    cells = Cells.blank(1, width)
    unit = scene.place.unit
    text = f" {scene.glyphs.up}step {scene.case.step(scene.place.row)} "
    here = max(0, min(width - len(text), _column(scene, scene.place.row, width) - 1))
    for at in range(0, width - 8, 16):
        told = short(scene.axis.at(at * scene.case.rows // width, unit))
        if at + len(told) <= here or at >= here + len(text):
            cells.write(0, at, told, DIM)
    cells.write(0, here, text, STRONG, bold=True)
    return cells


def short(value: float) -> str:
    """A position in few letters."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def steps(rows: float) -> str:
    """How many steps a column has, as they are counted: `8 steps`, `7 or 8 steps`, `4.1k steps`."""
    return "1 step" if rows == 1 else f"{span(rows)} steps"


def span(value: float) -> str:
    """A number of things of which some have one more than others; of many, about how many."""
    whole = int(value)
    if value == whole or value >= ROUGH:
        return short(round(value))
    return f"{whole} or {whole + 1}"


def verdict(scene: Scene, height: int, width: int) -> Cells:
    """What happened, where, and what to try: before any key is pressed."""
    cells = Cells.blank(height, width)
    standing = scene.case.view.standing
    fore, back = ((STRONG, HEAD_BACK), (0x14171C, WARN), (BAD_FORE, BAD_BACK))[standing.severity]
    word = f" {scene.glyphs.severity(standing.severity)} {standing.word.upper()} "
    column = cells.write(0, 0, word, fore, back, bold=True) + 1
    text = scene.message or verdict_words(scene)
    if not scene.message and len(text) > width - column:
        text = _short_words(scene)
    cells.write(0, column, fit_end(text, max(0, width - column)), STRONG, bold=bool(scene.message))
    return cells


def verdict_words(scene: Scene) -> str:
    """The verdict in one line."""
    case = scene.case
    if not case.rows:
        return _no_steps(scene)
    headline = case.view.headline
    bad = first_bad(case)
    if bad is not None and bad.row == 0:
        return _bad_begin(scene)
    remedy = next(iter(case.diagnosis.remedies), None)
    return f"{headline}.   Try: {remedy.change}" if remedy else headline


def _no_steps(scene: Scene) -> str:
    """A run without a row: it has only begun, or nothing was recorded."""
    header = scene.case.run.header
    if scene.case.is_live:
        pid, age = header.environment.get("pid", "unknown"), max(0.0, time.time() - header.created)
        opened = f", opened {duration(age)} ago" if header.created else ""
        return f"waiting for the first step (writer pid {pid}{opened})"
    return 'this run holds no steps: train inside `with nanscope.record(model, optimizer, "run.h5"):`'


def _bad_begin(scene: Scene) -> str:
    """A run that was never sound: what came in is to be looked at."""
    run, born = scene.case.run, scene.case.diagnosis.origin
    nans = [float(run.series(s, "nan_count", 0, 1)[0]) for s in scene.case.sites(Kind.INPUT, "nan_count")]
    bad = f" (nan in batch: {sum(nans):.0f})" if sum(nans) > 0 else ""
    place = f" in {born.module}" if born and born.module else ""
    return f"not finite from the first step{place}: check the input{bad}"


def _short_words(scene: Scene) -> str:
    """The same where there is little room: place and remedy are what one has to read."""
    born, remedy = scene.case.diagnosis.origin, next(iter(scene.case.diagnosis.remedies), None)
    if born is None or remedy is None or scene.case.row_of(born.step) == 0:
        return verdict_words(scene)
    place = (born.op is None and born.site) or born.module or "model"
    return f"step {born.step}, {place}.  Try: {remedy.change}"


def footer(scene: Scene, entries: Sequence[tuple[str, str, bool]], width: int) -> Cells:
    """Keys, what they do, and whether they make sense now."""
    del scene
    cells = Cells.blank(1, width)
    column, (told, gap) = 1, _fitted(list(entries), width)
    for keys, label, sense in told:
        column = cells.write(0, column, keys, STRONG if sense else RULE, bold=sense) + 1
        column = cells.write(0, column, label, DIM if sense else RULE) + gap
    return cells


def _fitted(entries: list[tuple[str, str, bool]], width: int) -> tuple[list[tuple[str, str, bool]], int]:
    """Entries and the gap between them: closer, then in short, then fewer; the way out stays to the last."""
    for gap in (3, 2):
        if _length(entries, gap) <= width:
            return entries, gap
    short = [(keys, SHORT.get(label, label), sense) for keys, label, sense in entries]
    while len(short) > 2 and _length(short, 2) > width:
        del short[-3]
    return short, 2


def _length(entries: list[tuple[str, str, bool]], gap: int) -> int:
    return 1 + sum(len(keys) + 1 + len(label) + gap for keys, label, _ in entries) - gap


def title(cells: Cells, row: int, scene: Scene, text: str, aside: str = "", *, focus: bool = False) -> None:
    """The line above a pane."""
    del scene
    column = cells.write(row, 1, text, STRONG if focus else TEXT, bold=True)
    cells.write(row, column + 2, aside, DIM)


def legend(scene: Scene) -> list[tuple[str, int]]:
    """Every case with its colour."""
    return [(case.label, colour_of(number)) for number, case in enumerate(scene.desk.cases)]
