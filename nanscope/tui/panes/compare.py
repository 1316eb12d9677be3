"""The cases side by side: is it the batch size?"""

from __future__ import annotations

from dataclasses import replace

from nanscope.numbers import count
from nanscope.raster.cells import Cells, fit
from nanscope.raster.heat import columns_per_cell, heat
from nanscope.raster.lane import LABELS, Look, Trace, labels, lane
from nanscope.raster.palette import BAD_BACK, BAD_FORE, DIM, STRONG, TEXT
from nanscope.replay.axis import Unit
from nanscope.replay.heat import heat_of
from nanscope.replay.stats import STATS, sites_of
from nanscope.replay.stops import divergence
from nanscope.tui.panes.heatmap import short_name
from nanscope.tui.panes.loss import loss
from nanscope.tui.panes.predict import recent
from nanscope.tui.scene import Scene, colour_of
from nanscope.values import Severity

NAMES = 14
STACKED = 100
"""Below this width the cases stand one above the other."""


def compare(scene: Scene, height: int, width: int) -> Cells:
    """A column per case: verdict, loss, heat, classes; then where the one in focus leaves the baseline."""
    cells = Cells.blank(height, width)
    many = len(scene.desk.cases)
    if many == 1:
        name = scene.case.path
        cells.write(0, 1, "one case only", STRONG, bold=True)
        cells.write(1, 1, f"add others: nanscope replay {name} OTHER.h5, or a folder of runs", DIM)
        cells.put(3, 0, loss(scene, height - 3, width))
        return cells
    cells.write(height - 1, 1, _parting(scene), STRONG, bold=True)
    if width < STACKED:
        each = max(4, (height - 1) // many)
        for number in range(many):
            cells.put(number * each, 0, _stacked(scene, number, each, width))
        cells.write(height - 1, 1, _parting(scene).ljust(width - 1), STRONG, bold=True)
        return cells
    each = width // many
    for number in range(many):
        cells.put(0, number * each, _column(scene, number, height - 2, each - 1))
    return cells


def _head(scene: Scene, number: int, cells: Cells) -> None:
    case, there = scene.desk.cases[number], scene.on(number)
    focus = number == scene.place.case
    mark = scene.glyphs.here if focus else " "
    column = cells.write(0, 0, f"{mark}{case.label}", colour_of(number), bold=focus) + 1
    if number == scene.place.baseline:
        column = cells.write(0, column, "baseline", DIM) + 1
    step = case.step(there.place.row)
    column = cells.write(0, column, f"step {step}", TEXT) + 2
    diagnosis = case.diagnosis
    worst = max((finding.severity for finding in diagnosis.findings), default=Severity.NOTE)
    word = f"{scene.glyphs.severity(worst)} {diagnosis.verdict.value.upper()}"
    if diagnosis.origin is not None:
        word += f" at step {diagnosis.origin.step}"
    bad = worst is Severity.ERROR
    cells.write(
        1, 1, fit(word, cells.width - 1).rstrip(), BAD_FORE if bad else TEXT, BAD_BACK if bad else None
    )


def _column(scene: Scene, number: int, height: int, width: int) -> Cells:
    cells = Cells.blank(height, width)
    _head(scene, number, cells)
    lane = max(4, (height - 4) // 3)
    cells.put(2, 0, _aligned(scene, number, lane, width))
    row = 2 + lane
    told = STATS[scene.place.stat]
    cells.write(row, 1, f"{told.name}, {'same scale' if number else 'decades above own begin'}", DIM)
    rows = max(1, height - row - 2)
    cells.put(row + 1, 0, _heat(scene, number, rows, width))
    cells.put(height - 1, 0, _classes(scene, number, width))
    return cells


def _stacked(scene: Scene, number: int, height: int, width: int) -> Cells:
    cells = Cells.blank(height, width)
    _head(scene, number, cells)
    cells.put(2, 0, _aligned(scene, number, height - 2, width))
    return cells


def _aligned(scene: Scene, number: int, height: int, width: int) -> Cells:
    """The loss of one case, over the stretch of the axis that all show."""
    cells, case = Cells.blank(height, width), scene.desk.cases[number]
    if not case.run.has(None, "loss"):
        return cells
    room = width - LABELS
    look = _look(scene, room)
    others = range(len(scene.desk.cases))
    read = {
        n: scene.desk.cases[n].reader.columns(
            None, "loss", scene.edges_in(scene.whole(), n, room * look.dots)
        )
        for n in others
        if scene.desk.cases[n].run.has(None, "loss")
    }
    traces = [Trace(series, colour_of(n), n == number) for n, series in read.items()]
    drawn, scale = lane(traces, height, room, look)
    cells.put(0, 0, labels(scale, height))
    cells.put(0, LABELS, drawn)
    return cells


def _look(scene: Scene, width: int) -> Look:
    """How a plot over the stretch that all cases share is drawn."""
    low, high = scene.whole()
    at = scene.axis.at(scene.place.row, scene.place.unit)
    return replace(
        scene.look(width), playhead=min(width - 1, int((at - low) * width / max(high - low, 1e-30)))
    )


def _heat(scene: Scene, number: int, height: int, width: int) -> Cells:
    cells, case = Cells.blank(height, width), scene.desk.cases[number]
    sites = sites_of(case, scene.place.stat)[:height]
    if not sites:
        cells.write(0, 1, "not recorded", DIM)
        return cells
    look = _look(scene, width - NAMES)
    edges = scene.edges_in(scene.whole(), number, (width - NAMES) * columns_per_cell(look))
    usual = scene.desk.usual(number, scene.place.baseline, scene.place.stat, scene.place.reference)
    found = heat_of(case, sites, scene.place.stat, edges, usual[: len(sites)])
    cells.put(0, NAMES, heat(found.values, found.bad, look, of_shares=STATS[scene.place.stat].is_share))
    for row, site in enumerate(sites):
        here = site.module == scene.place.module
        cells.write(row, 1, fit(short_name(scene, site.name), NAMES - 2), STRONG if here else TEXT, bold=here)
    return cells


def _classes(scene: Scene, number: int, width: int) -> Cells:
    cells = Cells.blank(1, width)
    there = scene.on(number)
    if not any(name.startswith("predicted_0") for name in there.case.run.scalars):
        return cells
    values = recent(there)
    share = values / max(values.sum(), 1.0)
    column = cells.write(0, 1, "class % ", DIM)
    for each in share:
        strong = each > 0.5
        column = cells.write(0, column, f"{round(100 * each)} ", STRONG if strong else TEXT, bold=strong)
    return cells


def _parting(scene: Scene) -> str:
    place, cases = scene.place, scene.desk.cases
    if place.case == place.baseline:
        others = [number for number in range(len(cases)) if number != place.baseline]
        number = others[-1]
    else:
        number = place.case
    row = divergence(cases[number], cases[place.baseline])
    names = f"{cases[number].label} from {cases[place.baseline].label}"
    if row is None:
        return f"D  first divergence of {names}: none, its loss stays within twice the baseline's"
    samples = scene.desk.axes[number].at(row, Unit.SAMPLES)
    step = cases[number].step(row)
    where = f"from sample {count(round(samples))}, step {step}"
    return f"D  first divergence of {names}: the loss is over twice the baseline's for good {where}"
