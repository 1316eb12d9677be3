"""The loss of all cases over the window, with a rail of the steps that were not finite."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nanscope.raster.cells import Cells
from nanscope.raster.heat import rail
from nanscope.raster.lane import LABELS, Trace, labels, lane
from nanscope.raster.palette import BAD_BACK, BAD_FORE, DIM, STRONG
from nanscope.replay.readout import worded
from nanscope.tui.panes.chrome import span, steps
from nanscope.tui.panes.heatmap import names_width
from nanscope.tui.scene import Scene, colour_of

OVERVIEW = 1


def loss(scene: Scene, height: int, width: int, *, alone: bool = False) -> Cells:
    """A title, the lane and the rail."""
    cells = Cells.blank(height, width)
    case, left = scene.case, margin(scene, width)
    room = width - left - 1
    if not case.run.has(None, "loss"):
        cells.write(0, 1, "the loss was not recorded: it is what backward() is called on", DIM)
        return cells
    look = scene.look(room)
    numbers = [scene.place.case] if alone else range(len(scene.desk.cases))
    traces: list[Trace] = []
    bad: NDArray[np.bool_] = np.zeros(room, np.bool_)
    for number in numbers:
        other = scene.desk.cases[number]
        if not other.run.has(None, "loss"):
            continue
        series = other.reader.columns(None, "loss", scene.edges_on(number, room * look.dots))
        focus = number == scene.place.case
        traces.append(Trace(series, colour_of(number), focus))
        if focus:
            bad = np.asarray((series.bad > 0).reshape(room, look.dots).any(1))
    drawn, scale = lane(traces, max(1, height - 2), room, look)
    _title(cells, scene, over=scale.over, under=scale.under, alone=alone)
    cells.put(1, left - LABELS, labels(scale, drawn.height))
    cells.put(1, left, drawn)
    if height > 2:
        cells.write(height - 1, 1, "non-fin", DIM)
        cells.put(height - 1, left, rail(bad, look))
    return cells


def margin(scene: Scene, width: int) -> int:
    """Cells left of the lane: those of the names of layers above a heat map, so that both have one axis."""
    return names_width(scene, width) if scene.place.screen == OVERVIEW else LABELS


def _title(cells: Cells, scene: Scene, *, over: bool, under: bool, alone: bool) -> None:
    glyphs, place = scene.glyphs, scene.place
    column = cells.write(0, 1, "loss", STRONG, bold=True)
    rows = place.width / max(1, cells.width - margin(scene, cells.width) - 1)
    kind = "linear y" if place.linear else "log y"
    step = f"1 col = {steps(rows)}" if rows >= 1 else f"1 step = {span(1 / rows)} cols"
    clipped = f" {glyphs.up}" * over + f" {glyphs.down}" * under
    column = cells.write(0, column + 2, f"{kind}, {step}{clipped}", DIM) + 2
    for number, case in enumerate(scene.desk.cases):
        if alone and number != place.case:
            continue
        value = _value(scene, number)
        bad = value in ("nan", "inf", "-inf")
        here = glyphs.here if number == place.case and not alone else ""
        column = cells.write(0, column, f"{here}{case.label} ", colour_of(number), bold=number == place.case)
        column = (
            cells.write(0, column, value, BAD_FORE if bad else STRONG, BAD_BACK if bad else None, bold=bad)
            + 2
        )


def _value(scene: Scene, number: int) -> str:
    case = scene.desk.cases[number]
    row = scene.on(number).place.row
    if not case.rows or not case.run.has(None, "loss"):
        return "-"
    return worded(float(case.reader.rows(case.run.index(None, "loss"), row, row + 1)[0]))
