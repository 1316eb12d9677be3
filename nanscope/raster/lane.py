"""A lane: series over time, the one in focus as a line on the band from its lowest to its highest value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nanscope.raster.cells import Cells
from nanscope.raster.palette import DIM, RULE, Graph, glyphs_of, mix
from nanscope.raster.scale import Scale, scale_of

LABELS = 8  # cells of the numbers at the left
DOTS = {Graph.BRAILLE: (4, 2), Graph.BLOCK: (2, 1), Graph.ASCII: (1, 1)}
"""Rows and columns of dots in a cell."""
_BRAILLE = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
_BLOCKS = np.array([" ", "▀", "▄", "█"])
TINT = 0.22


class Series(Protocol):
    """Arrays of shape (columns,), see `replay.columns.Columns`."""

    @property
    def low(self) -> NDArray[np.float64]:
        """Lowest finite value."""

    @property
    def high(self) -> NDArray[np.float64]:
        """Highest finite value."""

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean of the finite values."""

    @property
    def bad(self) -> NDArray[np.int64]:
        """How many were not finite."""


@dataclass(frozen=True, slots=True)
class Trace:
    """A series with its colour; one of a lane is in focus. A hidden one only has its part in the scale."""

    series: Series
    colour: int
    focus: bool = False
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class Look:
    """How a plot is drawn.

    Attributes:
        playhead: column of cells where one looks, None if it is not in sight.
    """

    graph: Graph = Graph.BRAILLE
    playhead: int | None = None
    linear: bool = False
    digits: bool = False

    @property
    def dots(self) -> int:
        """Columns of data per cell that lanes are drawn from."""
        return DOTS[self.graph][1]


def lane(traces: Sequence[Trace], height: int, width: int, look: Look) -> tuple[Cells, Scale]:
    """Series, each with `width * look.dots` columns, in cells of shape (height, width)."""
    scale = scale_of([t.series.low for t in traces], [t.series.high for t in traces], linear=look.linear)
    cells = Cells.blank(height, width)
    for trace in sorted((each for each in traces if not each.hidden), key=lambda each: each.focus):
        if trace.focus:
            _band(cells, trace, scale, look)
        _line(cells, trace, scale, look)
    _playhead(cells, look)
    return cells, scale


def labels(scale: Scale, height: int) -> Cells:
    """The numbers beside a lane, of the same height."""
    cells = Cells.blank(height, LABELS)
    every = 1 if height <= 4 else 2
    for row in range(0, height, every):
        share = 1 - (row + 0.5) / height if height > 1 else 0.5
        cells.write(row, 0, f"{scale.label(share):>{LABELS - 1}}", DIM)
    return cells


def _band(cells: Cells, trace: Trace, scale: Scale, look: Look) -> None:
    """A tint behind the cells from the lowest to the highest value of each column."""
    low, high = (_cell_rows(scale.share(v), cells.height) for v in (trace.series.low, trace.series.high))
    tint = mix(0x0B0E14, trace.colour, TINT)
    for column, (bottom, top) in enumerate(zip(low, high, strict=True)):
        if bottom >= 0:
            at = column // look.dots
            cells.back[top : bottom + 1, at] = tint
            if look.graph is Graph.ASCII and bottom > top:
                cells.glyphs[top : bottom + 1, at] = ":"
                cells.fore[top : bottom + 1, at] = DIM


def _cell_rows(share: NDArray[np.float64], height: int) -> NDArray[np.int64]:
    """The row of each share, from the top; -1 where there is none."""
    rows = np.minimum(height - 1, np.floor((1 - np.nan_to_num(share)) * height)).astype(np.int64)
    return np.where(np.isnan(share), -1, rows)


def _line(cells: Cells, trace: Trace, scale: Scale, look: Look) -> None:
    """The mean, joined to that of the column before it: never across a column without one."""
    rows, columns = DOTS[look.graph]
    dots = _dots(scale.share(trace.series.mean), cells.height * rows)
    split = dots.reshape(cells.height, rows, cells.width, columns)
    hit = split.any(axis=(1, 3))
    if look.graph is Graph.BRAILLE:
        codes = np.einsum("hrwc,rc->hw", split.astype(np.int64), _BRAILLE) + 0x2800
        glyphs = np.array([chr(code) for code in range(0x2800, 0x2900)])[codes - 0x2800]
    elif look.graph is Graph.BLOCK:
        glyphs = _BLOCKS[split[:, 0, :, 0] + 2 * split[:, 1, :, 0]]
    else:
        glyphs = np.where(hit, "*" if trace.focus else "+", " ")
    cells.glyphs[hit] = glyphs[hit]
    cells.fore[hit] = trace.colour
    cells.bold[hit] = trace.focus


def _dots(share: NDArray[np.float64], height: int) -> NDArray[np.bool_]:
    """Which dots are set, shape (height, columns)."""
    at = np.where(np.isnan(share), -1, np.minimum(height - 1, np.floor((1 - np.nan_to_num(share)) * height)))
    before = np.concatenate(([-1], at[:-1]))
    joined = (at >= 0) & (before >= 0)
    # half of the way to the one before: a steep line is a line, and not a wall of both columns
    start = np.where(joined, np.minimum(at, np.where(before < at, before + 1, before)), at)
    stop = np.where(joined, np.maximum(at, np.where(before > at, before - 1, before)), at)
    rows = np.arange(height)[:, None]
    return np.asarray((at >= 0) & (rows >= start) & (rows <= stop), np.bool_)


def _playhead(cells: Cells, look: Look) -> None:
    if look.playhead is None or not 0 <= look.playhead < cells.width:
        return
    column = cells.glyphs[:, look.playhead]
    free = (column == " ") | (column == chr(0x2800))
    cells.glyphs[free, look.playhead] = glyphs_of(look.graph).bar
    cells.fore[free, look.playhead] = RULE
