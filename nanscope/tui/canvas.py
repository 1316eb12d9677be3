"""The canvas: cells on Textual's line interface; only what changed is painted again."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from rich.segment import Segment
from rich.style import Style
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from nanscope.raster.cells import FILL, PLAIN, Cells

CLOSE = 12  # cells; to move the cursor over fewer costs more than to write them again
NO_STYLE = Style()
"""Not None: Textual's filter for NO_COLOR wants a style everywhere."""


def regions(changed: NDArray[np.bool_]) -> list[Region]:
    """Stretches of rows that hold every changed cell; what lies close together is one stretch."""
    found: list[Region] = []
    for row in np.flatnonzero(changed.any(axis=1)):
        columns = np.flatnonzero(changed[row])
        parts = np.split(columns, np.flatnonzero(np.diff(columns) > CLOSE) + 1)
        found += [Region(int(part[0]), int(row), int(part[-1] - part[0]) + 1, 1) for part in parts]
    return found


class Canvas(Widget):
    """Shows cells."""

    DEFAULT_CSS = "Canvas { width: 100%; height: 100%; }"
    ALLOW_SELECT = False  # dragging scrubs
    can_focus = True

    def __init__(self, *, colours: bool) -> None:
        super().__init__()
        self._colours = colours
        self._cells = Cells.blank(1, 1)
        self._styles: dict[tuple[int, int, bool], Style] = {}

    def show(self, cells: Cells) -> None:
        """Show these cells."""
        before, self._cells = self._cells, cells
        if (before.height, before.width) != (cells.height, cells.width):
            self.refresh()
            return
        changed = (
            (before.glyphs != cells.glyphs)
            | (before.fore != cells.fore)
            | (before.back != cells.back)
            | (before.bold != cells.bold)
        )
        changed[:, 1:] |= changed[:, :-1] & (cells.glyphs[:, 1:] == FILL)  # a wide character is one piece
        changed[:, :-1] |= changed[:, 1:] & (cells.glyphs[:, 1:] == FILL)
        if changed.any():
            self.refresh(*regions(changed))

    def render_line(self, y: int) -> Strip:
        """One row, as wide as the screen."""
        width = self.size.width
        if y >= self._cells.height:
            return Strip.blank(width, NO_STYLE)
        return self.strip_of(y).adjust_cell_length(width, NO_STYLE)

    def strip_of(self, row: int) -> Strip:
        """One row of the cells."""
        cells = self._cells
        looks = (cells.fore[row], cells.back[row], cells.bold[row])
        other = np.any([look[1:] != look[:-1] for look in looks], axis=0)
        cuts = [0, *(np.flatnonzero(other) + 1).tolist(), cells.width]
        glyphs, keys = cells.glyphs[row].tolist(), list(zip(*(look.tolist() for look in looks), strict=True))
        segments = [Segment("".join(glyphs[a:b]), self._style(keys[a])) for a, b in pairwise(cuts)]
        return Strip(segments, cells.width)

    def _style(self, key: tuple[int, int, bool]) -> Style:
        style = self._styles.get(key)
        if style is None:
            fore, back, bold = key
            style = self._styles[key] = Style(
                color=None if fore == PLAIN or not self._colours else f"#{fore:06x}",
                bgcolor=None if back == PLAIN or not self._colours else f"#{back:06x}",
                bold=bold,
            )
        return style


assert FILL == ""  # the right half of a wide character adds nothing to the text of a segment
