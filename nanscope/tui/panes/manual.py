"""The help: every key, and what the marks mean."""

from __future__ import annotations

from nanscope.raster.cells import Cells, fit
from nanscope.raster.palette import DIM, STRONG, TEXT, Graph
from nanscope.tui.keys import ACTIONS, PLAIN
from nanscope.tui.panes.words import Written
from nanscope.tui.scene import Scene

MEANING = (
    "step k: forward and backward of step k; activations and gradients seen in it, weights after its update",
    "a column of a plot shows the highest and the lowest value of its steps; one NaN in them marks it",
    "heat: decades above what was usual for the layer; what is measured now and then holds in between",
)


def manual(scene: Scene, height: int, width: int) -> Cells:
    """Every key in columns by group, and what the marks mean."""
    cells = Cells.blank(height, width)
    cells.write(0, 1, "HELP   esc closes it", STRONG, bold=True)
    lines: list[Written] = []
    group = ""
    for action in ACTIONS.values():
        if action.group != group:
            group = action.group
            lines.append((group.upper(), STRONG, True))
        lines.append((f"{_key(scene, action.shown):<5} {action.words}", TEXT, False))
    rows = height - 2 - len(MEANING)
    columns = max(1, -(-len(lines) // max(1, rows)))
    size = (width - 1) // columns
    for i, (text, fore, bold) in enumerate(lines):
        row, column = i % max(1, rows), i // max(1, rows)
        cells.write(row + 1, 1 + column * size, fit(text, size - 1), fore, bold=bold)
    for i, text in enumerate(MEANING):
        cells.write(height - len(MEANING) + i, 1, text, DIM)
    return cells


def _key(scene: Scene, shown: str) -> str:
    return PLAIN.get(shown, shown) if scene.graph is Graph.ASCII else shown
