"""The numbers as they were recorded, around the playhead."""

from __future__ import annotations

import numpy as np

from nanscope.raster.cells import Cells, fit
from nanscope.raster.palette import BAD_BACK, BAD_FORE, DIM, FOCUS_BACK, STRONG, TEXT
from nanscope.run import Column, is_missing
from nanscope.tui.panes.heatmap import short_name
from nanscope.tui.scene import Scene, passes

NAMES = 34
VALUE = 15


def exact(value: np.float32) -> str:
    """A recorded number with all of its digits, NaN and infinities in words; `-` was not measured."""
    if np.isnan(value):
        return "-" if is_missing(np.array([value], np.float32))[0] else "NaN"
    if np.isinf(value):
        return "Inf" if value > 0 else "-Inf"
    return (
        np.format_float_scientific(value, unique=True)
        if value and abs(np.log10(abs(value))) > 6
        else str(value)
    )


def shown_columns(scene: Scene) -> list[tuple[int, Column]]:
    """Columns of the run that pass the filter: of the layer in focus first."""
    named = [(i, c) for i, c in enumerate(scene.case.run.header.columns) if c.stat]
    passing = [(i, c) for i, c in named if passes(scene.place.only, name_of(c))]
    module = scene.place.module

    def far(entry: tuple[int, Column]) -> int:
        site = entry[1].site
        return 0 if site is not None and site.module == module else 1 if site is None else 2

    return sorted(passing, key=far)


def name_of(column: Column) -> str:
    """`fc2.output l2`, or a scalar's name."""
    return column.stat if column.site is None else f"{column.site} {column.stat}"


def _short(scene: Scene, column: Column) -> str:
    """The name of a column, without what the names of all layers begin with."""
    if column.site is None or not column.site.name:
        return name_of(column)
    return name_of(column).replace(column.site.name, short_name(scene, column.site.name), 1)


def raw(scene: Scene, height: int, width: int) -> Cells:
    """A row per number, a column per step; what differs from the step before is bright."""
    cells = Cells.blank(height, width)
    case, place = scene.case, scene.place
    if not case.rows:
        cells.write(0, 1, "no step was recorded", DIM)
        return cells
    names = min(NAMES, width // 3)
    steps = max(1, (width - names - 1) // VALUE)
    first = max(0, min(case.rows - steps, place.row - steps // 2))
    rows = [case.reader.row(row) for row in range(first, min(case.rows, first + steps))]
    head = "step k: forward and backward of step k; weights after its update"
    cells.write(0, 1, head, DIM)
    for i in range(len(rows)):
        here = first + i == place.row
        text = f"{scene.glyphs.here if here else ' '}{case.step(first + i)}"
        cells.write(1, names + i * VALUE, f"{text:>{VALUE - 1}}", STRONG if here else TEXT, bold=here)
    shown = shown_columns(scene)
    top = max(0, min(len(shown) - (height - 2), place.picked))
    for line, (index, column) in enumerate(shown[top : top + height - 2], 2):
        cells.write(line, 1, fit(_short(scene, column), names - 2), TEXT)
        _numbers(cells, line, names, [row[index] for row in rows], place.row - first)
    return cells


def _numbers(cells: Cells, line: int, left: int, values: list[np.float32], here: int) -> None:
    for i, value in enumerate(values):
        text = f"{exact(value):>{VALUE - 1}}"
        bad = not np.isfinite(value) and text.strip() != "-"
        changed = i > 0 and value.tobytes() != values[i - 1].tobytes()
        back = BAD_BACK if bad else FOCUS_BACK if i == here else None
        cells.write(
            line, left + i * VALUE, text, BAD_FORE if bad else STRONG if changed else DIM, back, bold=bad
        )


def as_tsv(scene: Scene, steps: int = 10) -> str:
    """The numbers around the playhead as a table with tabs: a row per step."""
    case, place = scene.case, scene.place
    columns = shown_columns(scene)
    lines = ["\t".join(["step", *(name_of(column) for _, column in columns)])]
    for row in range(max(0, place.row - steps), min(case.rows, place.row + steps + 1)):
        values = case.reader.row(row)
        lines.append("\t".join([str(case.step(row)), *(exact(values[i]) for i, _ in columns)]))
    return "\n".join(lines)
