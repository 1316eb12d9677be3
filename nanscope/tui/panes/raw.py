"""The numbers as they were recorded, around the playhead."""

from __future__ import annotations

from nanscope.raster.cells import Cells, fit
from nanscope.raster.palette import BAD_BACK, BAD_FORE, DIM, FOCUS_BACK, STRONG, TEXT
from nanscope.replay import raw as table
from nanscope.replay.raw import AROUND, Entry, Value, name_of
from nanscope.run import Column
from nanscope.tui.scene import Scene, passes

NAMES = 17
VALUE = 15
STEP_K = "step k: forward and backward of step k; weights after its update"
BRIEFLY = "weights: after the step's update"


def shown_columns(scene: Scene) -> list[tuple[int, Column]]:
    """Columns of the run that pass the filter."""
    columns = table.columns_of(scene.case, scene.place.module)
    return [(index, column) for index, column in columns if passes(scene.place.only, name_of(column))]


def shown_entries(scene: Scene) -> list[Entry]:
    """The lines of the table."""
    return table.entries(shown_columns(scene))


def raw(scene: Scene, height: int, width: int) -> Cells:
    """A row per number, a column per step; what differs from the step before is bright."""
    cells = Cells.blank(height, width)
    case, place = scene.case, scene.place
    if not case.rows:
        cells.write(0, 1, "no step was recorded", DIM)
        return cells
    steps = max(1, (width - NAMES - 1) // VALUE)
    first = max(0, min(case.rows - steps, place.row - steps // 2))
    stop = min(case.rows, first + steps)
    lines = shown_entries(scene)
    top = max(0, min(len(lines) - (height - 2), place.picked))
    _head(cells, scene, len(lines) - (height - 2))
    for at in range(first, stop):
        here = at == place.row
        text = f"{scene.glyphs.here if here else ' '}{case.step(at)}"
        cells.write(
            1, NAMES + (at - first) * VALUE, f"{text:>{VALUE - 1}}", STRONG if here else TEXT, bold=here
        )
    for row, line in enumerate(lines[top : top + height - 2], 2):
        _entry(cells, scene, row, line)
        if line.index is not None:
            _numbers(cells, row, table.values(case, line.index, first, stop), place.row - first)
    if not lines:
        cells.write(2, 1, f"no number is named {scene.place.only}: esc clears the filter", DIM)
    return cells


def _head(cells: Cells, scene: Scene, hidden: int) -> None:
    """What a step is, and what there is besides what is shown."""
    more = f"   {hidden} more lines: down" if hidden > 0 else ""
    only = f"   /{scene.place.only}" if scene.place.only else ""
    copies = f"   Y copies {AROUND} steps around"
    texts = (f"{STEP_K}{more}{only}{copies}", f"{STEP_K}{more}{only}", f"{BRIEFLY}{more}{only}")
    cells.write(0, 1, next((text for text in texts if len(text) < cells.width), texts[-1]), DIM)


def _entry(cells: Cells, scene: Scene, row: int, line: Entry) -> None:
    if line.index is not None:
        cells.write(row, 1, fit(f"{'  ' if line.place else ''}{line.stat}", NAMES - 1), TEXT)
        return
    site = next((each for each in scene.case.run.sites if str(each) == line.place), None)
    here = site is not None and site.module == scene.place.module
    mark = scene.glyphs.here if here else " "
    cells.write(
        row, 0, f"{mark}{fit(line.place, cells.width - 2).rstrip()}", STRONG if here else TEXT, bold=here
    )


def _numbers(cells: Cells, row: int, values: list[Value], here: int) -> None:
    for i, value in enumerate(values):
        back = BAD_BACK if value.bad else FOCUS_BACK if i == here else None
        fore = BAD_FORE if value.bad else STRONG if value.changed else DIM
        cells.write(
            row, NAMES + i * VALUE, f"{value.text:>{VALUE - 1}}", fore, back, bold=value.bad or value.changed
        )


def as_tsv(scene: Scene) -> str:
    """The numbers around the playhead as a table with tabs."""
    return table.as_tsv(scene.case, shown_columns(scene), scene.place.row)
