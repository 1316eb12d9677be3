"""The canvas: cells on Textual's line interface; only rows that changed are painted again."""

from __future__ import annotations

from rich.segment import Segment
from rich.style import Style
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from nanscope.raster.cells import FILL, PLAIN, Cells

NO_STYLE = Style()
"""Not None: Textual's filter for NO_COLOR wants a style everywhere."""


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
        same = (
            (before.glyphs == cells.glyphs)
            & (before.fore == cells.fore)
            & (before.back == cells.back)
            & (before.bold == cells.bold)
        ).all(axis=1)
        self.refresh(*(Region(0, int(row), cells.width, 1) for row in (~same).nonzero()[0]))

    def render_line(self, y: int) -> Strip:
        """One row."""
        cells = self._cells
        if y >= cells.height:
            return Strip.blank(self.size.width, NO_STYLE)
        keys = list(zip(cells.fore[y].tolist(), cells.back[y].tolist(), cells.bold[y].tolist(), strict=True))
        glyphs, segments, begin = cells.glyphs[y], [], 0
        for at in range(1, len(keys) + 1):
            if at == len(keys) or keys[at] != keys[begin]:
                segments.append(Segment("".join(glyphs[begin:at]), self._style(keys[begin])))
                begin = at
        return Strip(segments, cells.width).adjust_cell_length(self.size.width, NO_STYLE)

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
