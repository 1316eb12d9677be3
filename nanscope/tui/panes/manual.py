"""The help: every key, and what the marks mean."""

from __future__ import annotations

from nanscope.raster.cells import Cells, fit_end
from nanscope.raster.palette import DIM, STRONG, TEXT, Graph
from nanscope.tui.keys import PLAIN
from nanscope.tui.panes.words import Written, wrapped
from nanscope.tui.scene import Scene

SIZE = 38
"""Cells of a column."""
MEANING = (
    "step k: forward and backward of iteration k, activations and gradients in it, weights after its update",
    "{bad} is NaN or infinite; one such step in a column marks the column",
    "loss: the line is the mean of a column's steps, the tint goes from lowest to highest",
    "heat: the highest of a column, in decades above what was usual in the first tenth of the run",
    "what is measured now and then holds until it is measured again",
    "{error} ERR  {warning} WARN  {note} NOTE: how much a finding matters",
    "other keys: ~/.config/nanscope/keys.toml, with lines such as  first_bad = 'i'",
)


def manual(scene: Scene, height: int, width: int) -> Cells:
    """Every key in columns by group, and what the marks mean; it scrolls where there is too little room."""
    cells = Cells.blank(height, width)
    rows, columns = max(1, height - 1), max(1, (width - 1) // SIZE)
    lines = manual_lines(scene)
    first = max(0, min(scene.place.picked, len(lines) - rows * columns))
    left = len(lines) - first - rows * columns
    column = cells.write(0, 1, "HELP", STRONG, bold=True)
    more = f"{_key(scene, '↓')} {left} more lines   " if left > 0 else ""
    cells.write(0, column + 2, f"{more}esc closes it", DIM)
    size = (width - 1) // columns
    for i, (text, fore, bold) in enumerate(lines[first : first + rows * columns]):
        row, column = i % rows, i // rows
        cells.write(row + 1, 1 + column * size, fit_end(text, size - 1), fore, bold=bold)
    return cells


def manual_lines(scene: Scene) -> list[Written]:
    """All of it, in lines that fit a column."""
    lines: list[Written] = []
    group = ""
    for action in scene.actions.values():
        if action.group != group:
            group = action.group
            lines.append((group.upper(), STRONG, True))
        lines += wrapped(action.words, SIZE - 9, f"{_key(scene, action.shown):<7}")
    lines.append(("WHAT IT MEANS", STRONG, True))
    glyphs = scene.glyphs
    for text in MEANING:
        told = text.format(bad=glyphs.bad, error=glyphs.error, warning=glyphs.warning, note=glyphs.note)
        lines += [(line, TEXT, False) for line, *_ in wrapped(told, SIZE - 4, "  ")]
    return lines


def _key(scene: Scene, shown: str) -> str:
    return PLAIN.get(shown, shown) if scene.graph is Graph.ASCII else shown
