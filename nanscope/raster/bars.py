"""Bars and matrices: shares as lengths, counts as shades."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nanscope.raster.cells import Cells
from nanscope.raster.palette import CASES, DIM, STRONG, TEXT, Graph, glyphs_of, shares

DARK = 0x14171C


def bar(share: float, width: int, graph: Graph) -> str:
    """A share of the width, to an eighth of a cell where the terminal has such blocks."""
    if graph is Graph.ASCII:
        return "#" * round(share * width)
    eighths = round(share * width * 8)
    full, rest = divmod(eighths, 8)
    return "█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")


def class_bars(
    values: Sequence[float], height: int, width: int, graph: Graph, *, against: Sequence[float] = ()
) -> Cells:
    """Per class a number, a bar, per cent, and the true share; in as many columns as there is need for."""
    cells, total = Cells.blank(height, width), sum(values) or 1.0
    columns = max(1, -(-len(values) // max(1, height)))
    size = width // columns
    for number, value in enumerate(values):
        true = against[number] / (sum(against) or 1.0) if against and size >= 30 else None
        row, left = number % max(1, height), number // max(1, height) * size
        cells.put(row, left, _bar(number, size - 1, value / total, true, graph))
    return cells


def _bar(number: int, width: int, share: float, true: float | None, graph: Graph) -> Cells:
    cells, strong = Cells.blank(1, width), share > 0.5
    room = max(1, width - 9 - (8 if true is not None else 0))
    column = cells.write(0, 0, f"{number:>2} ", DIM)
    column = cells.write(0, column, f"{bar(share, room, graph):<{room}}", CASES[0])
    column = cells.write(0, column, f"{share:>5.0%} ", STRONG if strong else TEXT, bold=strong)
    if true is not None:
        cells.write(0, column, f"of {true:.0%}", DIM)
    return cells


def cell_width(counts: NDArray[np.float64], width: int) -> int:
    """Cells of a number of a confusion matrix, with the gap before it: enough for 100 where that fits."""
    least = max(len(f"{int(counts.max(initial=0))}"), len(str(len(counts) - 1))) + 1
    wide = max(least, len(" 100"))
    return wide if label_width(counts) + wide * len(counts) <= width else least


def label_width(counts: NDArray[np.float64]) -> int:
    """Cells of the true classes at its left."""
    return len(str(len(counts) - 1)) + 1


def matrix(counts: NDArray[np.float64], height: int, width: int, graph: Graph) -> Cells:
    """A confusion matrix: true classes down, predicted ones across, shaded by their share of the row."""
    classes = len(counts)
    size, label = cell_width(counts, width), label_width(counts)
    cells = Cells.blank(min(height, classes + 1), width)
    if label + size * classes > width:
        cells.write(0, 0, f"{classes} classes are too wide for this pane: press z", DIM)
        return cells
    for number in range(classes):
        cells.write(0, label + number * size, f"{number:>{size}}", DIM)
        cells.write(number + 1, 0, f"{number:>{label - 1}}", DIM)
    share = counts / np.maximum(1.0, counts.sum(1, keepdims=True))
    colours = shares(share)
    for row, column in np.ndindex(counts.shape):
        text = f"{int(counts[row, column])}" if counts[row, column] else glyphs_of(graph).dot
        dark = share[row, column] > 0.5
        back = int(colours[row, column]) if counts[row, column] else None
        fore = (DARK if dark else STRONG) if back is not None else DIM
        cells.write(row + 1, label + column * size, f"{text:>{size}}", fore, back, bold=bool(dark))
    return cells
