"""The focus: every number of the layer at the playhead."""

from __future__ import annotations

from nanscope.raster.cells import Cells, fit
from nanscope.raster.palette import BAD_BACK, BAD_FORE, DIM, STRONG, TEXT, WARN, Graph
from nanscope.replay.readout import Line, readout
from nanscope.tui.scene import Scene

LABEL = 17
VALUE = 10


def focus(scene: Scene, height: int, width: int) -> Cells:
    """A title and a line per number."""
    cells = Cells.blank(height, width)
    case, place = scene.case, scene.place
    column = cells.write(0, 1, "FOCUS", STRONG, bold=True)
    cells.write(0, column + 2, f"{case.label}  step {case.step(place.row)}", TEXT)
    if not case.rows:
        cells.write(1, 1, "no step was recorded yet", DIM)
        return cells
    cells.write(1, 1, fit(f"layer {scene.glyphs.here} {place.module or 'model'}", width - 2), STRONG)
    for row, line in enumerate(readout(case, place, scene.axis)[: height - 2], 2):
        _line(cells, scene, row, line)
    return cells


def focus_line(scene: Scene, height: int, width: int) -> Cells:
    """The same in one line, for small screens."""
    cells = Cells.blank(height, width)
    if not scene.case.rows:
        return cells
    lines = readout(scene.case, scene.place, scene.axis)[1:]
    told = "  ".join(f"{line.label} {line.value}" for line in lines)
    cells.write(
        0, 1, f"step {scene.case.step(scene.place.row)}  {scene.place.module or 'model'}  {told}", TEXT
    )
    return cells


def _line(cells: Cells, scene: Scene, row: int, line: Line) -> None:
    cells.write(row, 1, fit(line.label, LABEL), DIM)
    fore, back = (STRONG, None) if line.mark < 2 else (BAD_FORE, BAD_BACK)
    column = cells.write(
        row, LABEL + 1, line.value, WARN if line.mark == 1 else fore, back, bold=line.mark > 0
    )
    arrows = "^-v" if scene.graph is Graph.ASCII else "↑→↓"
    trend = f"{arrows[1 - line.rises]} " if line.rises or line.aside == "steady" else ""
    warn = f"{scene.glyphs.up} " if line.mark == 1 else ""
    cells.write(
        row, max(column + 1, LABEL + 1 + VALUE), f"{warn}{trend}{line.aside}", WARN if line.mark else DIM
    )
