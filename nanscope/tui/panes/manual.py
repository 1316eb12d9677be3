"""The long texts: all of why, and the help."""

from __future__ import annotations

from nanscope.raster.cells import Cells, fit
from nanscope.raster.palette import DIM, STRONG, TEXT, Graph
from nanscope.tui.keys import ACTIONS, PLAIN
from nanscope.tui.panes.words import Written, causes, origin, remedies, wrapped, write
from nanscope.tui.scene import Scene
from nanscope.values import Link

MEANING = (
    "step k: forward and backward of step k; activations and gradients seen in it, weights after its update",
    "a column of a plot shows the highest and the lowest value of its steps; one NaN in them marks it",
    "heat: decades above what was usual for the layer; what is measured now and then holds in between",
)


def cause(scene: Scene, height: int, width: int) -> Cells:
    """Origin, causes, trail and remedies, from the chosen line on."""
    cells = Cells.blank(height, width)
    lines = _section("WHERE", origin(scene)) + _section("WHY", causes(scene, width - 2))
    lines += _section("TRAIL", _trail(scene, width - 2)) + _section("TRY", remedies(scene, width - 2))
    told = [line for notice in scene.case.view.notices for line in wrapped(notice, width - 2, "")]
    told += [line for what in scene.case.diagnosis.unknowns for line in wrapped(what, width - 2, "")]
    lines += _section("THE FILE", told)
    first = scene.place.picked if scene.place.pane else 0
    write(cells, 0, lines[max(0, min(first, len(lines) - height)) :])
    return cells


def _section(title: str, lines: list[Written]) -> list[Written]:
    return [(title, STRONG, True), *lines, ("", TEXT, False)] if lines else []


def _trail(scene: Scene, width: int) -> list[Written]:
    """The way from birth to where it was noticed, as a tree: what one step holds hangs together."""
    links = scene.case.diagnosis.trail
    lines: list[Written] = []
    for i, link in enumerate(links):
        same = i > 0 and links[i - 1].step == link.step
        step = "" if same else str(link.step)
        branch = "`" if scene.graph is Graph.ASCII else "└"
        head = f"{step:>10} {branch if same else ' '} "
        lines += wrapped(_words(link), width - len(head), head)
    return lines


def _words(link: Link) -> str:
    rule = f"   [{link.rule}]" if link.rule else ""
    site = f"{link.site}: " if link.site and str(link.site) not in link.what else ""
    return f"{link.phase or '':<8} {site}{link.what}{rule}"


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
