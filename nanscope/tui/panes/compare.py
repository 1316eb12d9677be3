"""The cases side by side: is it the batch size?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nanscope.numbers import score
from nanscope.raster.cells import Cells, fit, fit_end
from nanscope.raster.heat import columns_per_cell, heat
from nanscope.raster.lane import LABELS, Look, Trace, labels, lane
from nanscope.raster.palette import BAD_BACK, BAD_FORE, DIM, RULE, STRONG, TEXT
from nanscope.replay.columns import Columns
from nanscope.replay.compare import Stretch, edges_at, parting, standing, stretch_of
from nanscope.replay.heat import heat_of
from nanscope.replay.readout import worded
from nanscope.replay.stats import STATS, recorded, sites_of
from nanscope.tui.panes.chrome import short
from nanscope.tui.panes.heatmap import short_name
from nanscope.tui.panes.loss import loss
from nanscope.tui.panes.predict import recent
from nanscope.tui.scene import Scene, colour_of
from nanscope.values import Severity

NAMES = 14
STACKED = 100
"""Below this width the cases stand one above the other."""
NARROWEST = 26  # cells of a column; with more cases than fit they are stacked as well
TALLEST = 12  # rows of a lane in a column


def compare(scene: Scene, height: int, width: int) -> Cells:
    """A column per case: verdict, loss, heat, classes; then where the one in focus leaves the baseline."""
    many = len(scene.desk.cases)
    if many == 1:
        return _alone(scene, height, width)
    cells = Cells.blank(height, width)
    if width < max(STACKED, many * NARROWEST):
        _stack(scene, cells)
    else:
        each = width // many
        for number in range(many):
            cells.put(0, number * each, _column(scene, number, height - 2, each - 1))
            if number:
                cells.glyphs[: height - 2, number * each - 1] = scene.glyphs.bar
                cells.fore[: height - 2, number * each - 1] = RULE
    text = parting(scene.desk.cases, scene.desk.axes, scene.place.case, scene.place.baseline)
    cells.write(height - 1, 1, fit_end(text, width - 1).ljust(width - 1), STRONG, bold=True)
    return cells


def _alone(scene: Scene, height: int, width: int) -> Cells:
    cells = Cells.blank(height, width)
    cells.write(0, 1, "one case only", STRONG, bold=True)
    cells.write(1, 1, f"add others: nanscope replay {scene.case.path} OTHER.h5, or a folder of runs", DIM)
    cells.put(3, 0, loss(scene, height - 3, width))
    return cells


def _stack(scene: Scene, cells: Cells) -> None:
    """Lanes over one axis; of more cases than there is room for, those around the one in focus."""
    many, height, width = len(scene.desk.cases), cells.height, cells.width
    most = max(1, (height - 2) // 3)
    first = max(0, min(many - most, scene.place.case - most // 2))
    shown = range(first, min(many, first + most))
    each = (height - 2) // len(shown)
    for place, number in enumerate(shown):
        _title(scene, number, cells, place * each)
        cells.put(place * each + 1, 0, _lane(scene, number, each - 1, width, LABELS))
    _axis(scene, cells, height - 2, LABELS)


def _column(scene: Scene, number: int, height: int, width: int) -> Cells:
    cells, case = Cells.blank(height, width), scene.desk.cases[number]
    _title(scene, number, cells, 0)
    tall = max(3, min(TALLEST, (height - 5) // 2))
    cells.put(3, 0, _lane(scene, number, tall, width, NAMES))
    _axis(scene, cells, 3 + tall, NAMES)
    row = 4 + tall
    names = recorded(case)
    at = names.index(scene.place.stat) if scene.place.stat in names else 0
    for stat in [scene.place.stat, *names[at + 1 :], *names[:at]]:
        room = min(height - 1 - row, len(sites_of(case, stat)) + 1 if stat in names else 2)
        if room < 2:
            break
        cells.put(row, 0, _heat(scene, number, stat, room, width))
        row += room
    cells.put(height - 1, 0, _classes(scene, number, width))
    return cells


def _title(scene: Scene, number: int, cells: Cells, row: int) -> None:
    """Which case, how it ended, and how it does at the playhead: in three rows of a column, or in one."""
    case, focus = scene.desk.cases[number], number == scene.place.case
    there = standing(case, scene.desk.axes[number], _position(scene), scene.place.unit)
    mark = scene.glyphs.here if focus else " "
    column = cells.write(row, 0, f"{mark}{fit_end(case.label, 16)}", colour_of(number), bold=focus) + 1
    if number == scene.place.baseline:
        column = cells.write(row, column, "baseline", DIM) + 1
    step = f"step {case.step(there.row)}" if there.begun else "before its first step"
    column = cells.write(row, column, step, TEXT) + 2
    in_one = cells.width >= STACKED // 2
    column = _verdict(scene, number, cells, row + (not in_one), column if in_one else 1) + 2
    value = "-" if there.loss is None else worded(there.loss)
    bad = value in ("nan", "inf", "-inf")
    row, column = row + 2 * (not in_one), column if in_one else 1
    column = cells.write(row, column, "loss ", DIM)
    column = cells.write(row, column, value, BAD_FORE if bad else STRONG, BAD_BACK if bad else None, bold=bad)
    if there.epoch is not None and there.epoch.accuracy is not None:
        told = f"  accuracy {score(there.epoch.accuracy)} after epoch {there.epoch.epoch}"
        cells.write(row, column, fit_end(told, max(0, cells.width - column)), TEXT)


def _verdict(scene: Scene, number: int, cells: Cells, row: int, column: int) -> int:
    view, diagnosis = scene.desk.cases[number].view, scene.desk.cases[number].diagnosis
    worst = max([view.standing.severity, *(finding.severity for finding in diagnosis.findings)])
    word = f"{scene.glyphs.severity(worst)} {view.standing.word.upper()}"
    if diagnosis.origin is not None:
        word += f" at step {diagnosis.origin.step}"
    bad = worst is Severity.ERROR
    text = fit_end(word, max(0, cells.width - column))
    return cells.write(row, column, text, BAD_FORE if bad else TEXT, BAD_BACK if bad else None, bold=bad)


def _position(scene: Scene) -> float:
    return scene.axis.at(scene.place.row, scene.place.unit)


def _stretch(scene: Scene) -> Stretch:
    return stretch_of(scene.place, scene.desk.cases, scene.desk.axes)


def _read(scene: Scene, number: int, columns: int) -> Columns:
    case, axis = scene.desk.cases[number], scene.desk.axes[number]
    positions = _stretch(scene).positions(columns)
    return case.reader.columns(None, "loss", edges_at(case, axis, positions, scene.place.unit))


def _lane(scene: Scene, number: int, height: int, width: int, left: int) -> Cells:
    """The loss of one case, from a column on, on the scale of all: lanes are read side by side."""
    cells, case, room = Cells.blank(height, width), scene.desk.cases[number], width - left
    if not case.run.has(None, "loss"):
        cells.write(0, 1, "the loss was not recorded", DIM)
        return cells
    look, traces = _look(scene, room), []
    for other, its in enumerate(scene.desk.cases):
        if its.run.has(None, "loss"):
            mine = other == number
            series = _read(scene, other, room * look.dots)
            traces.append(Trace(series, colour_of(other), focus=mine, hidden=not mine))
    drawn, scale = lane(traces, height, room, look)
    _mark_bad(scene, drawn, next(trace.series.bad for trace in traces if trace.focus), look)
    cells.put(0, left - LABELS, labels(scale, height))
    cells.put(0, left, drawn)
    return cells


def _mark_bad(scene: Scene, drawn: Cells, bad: NDArray[np.int64], look: Look) -> None:
    """The lowest row is the rail: where the loss was not finite."""
    if not drawn.height:
        return
    broken = (bad > 0).reshape(drawn.width, look.dots).any(axis=1)
    drawn.glyphs[-1, broken] = scene.glyphs.bad
    drawn.fore[-1, broken], drawn.back[-1, broken] = BAD_FORE, BAD_BACK
    drawn.bold[-1, broken] = True


def _look(scene: Scene, width: int) -> Look:
    """How a plot over the stretch that all cases share is drawn."""
    return replace(scene.look(width), playhead=_stretch(scene).column(_position(scene), width))


def _axis(scene: Scene, cells: Cells, row: int, left: int) -> None:
    """Where the stretch begins, its middle, and its end; a logarithmic one says so."""
    stretch, unit, room = _stretch(scene), scene.place.unit.value, cells.width - left
    begin, middle, end = (short(x) for x in stretch.positions(2))
    cells.write(row, 1, fit_end(unit, LABELS - 1), DIM)
    cells.write(row, left + 1, f"{begin} (log)" if stretch.logarithmic else begin, DIM)
    cells.write(row, left + room // 2, middle, DIM)
    cells.write(row, cells.width - len(end), end, DIM)


def _heat(scene: Scene, number: int, stat: str, height: int, width: int) -> Cells:
    """A title and a row per layer, the one in focus in sight."""
    cells, case = Cells.blank(height, width), scene.desk.cases[number]
    sites, told, place = sites_of(case, stat), STATS[stat], scene.place
    kind = "shares" if told.is_share else "decades above own begin" if not number else "same scale"
    cells.write(0, 1, fit_end(f"{told.name}, {kind}", width - 1), DIM)
    if not sites:
        cells.write(1, 1, "not recorded", DIM)
        return cells
    at = next((i for i, site in enumerate(sites) if site.module == place.module), 0)
    first = max(0, min(len(sites) - (height - 1), at - height // 2))
    shown = slice(first, first + height - 1)
    look = _look(scene, width - NAMES)
    positions = _stretch(scene).positions((width - NAMES) * columns_per_cell(look))
    edges = edges_at(case, scene.desk.axes[number], positions, place.unit)
    usual = scene.desk.usual(number, place.baseline, stat, place.reference)
    found = heat_of(case, sites[shown], stat, edges, usual[shown])
    cells.put(1, NAMES, heat(found.values, found.bad, look, of_shares=told.is_share))
    for row, site in enumerate(sites[shown], 1):
        here = site.module == place.module
        cells.write(
            row, 1, fit(short_name(scene.case, site.name), NAMES - 2), STRONG if here else TEXT, bold=here
        )
    return cells


def _classes(scene: Scene, number: int, width: int) -> Cells:
    """The shares of the classes in the last steps; one that rules the others is marked."""
    cells = Cells.blank(1, width)
    there = scene.on(number)
    column = cells.write(0, 1, "class % ", DIM)
    values = recent(there)
    if not values.size:
        cells.write(0, column, "not recorded", DIM)
        return cells
    for each in values / max(values.sum(), 1.0):
        strong = each > 0.5
        text = f"{round(100 * each)}{scene.glyphs.up if strong else ''} "
        column = cells.write(0, column, text, STRONG if strong else TEXT, bold=bool(strong))
    return cells
