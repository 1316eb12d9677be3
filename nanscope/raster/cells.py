"""Cells: a rectangle of characters with colours, the only thing that panes give and the screen takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.cells import cell_len, set_cell_size

PLAIN = -1
"""The terminal's own colour."""
FILL = ""
"""The second cell of a wide character."""


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Arrays of shape (rows, columns); written to only by who made them.

    Attributes:
        glyphs: one character each; `FILL` right of a wide one.
        fore: colours 0xRRGGBB, or `PLAIN`.
        back: the same, behind the character.
        bold: whether it stands out.
    """

    glyphs: NDArray[np.str_]
    fore: NDArray[np.int32]
    back: NDArray[np.int32]
    bold: NDArray[np.bool_]

    @classmethod
    def blank(cls, height: int, width: int) -> Cells:
        """Spaces in the terminal's own colours."""
        shape = max(0, height), max(0, width)
        plain = np.full(shape, PLAIN, np.int32)
        return cls(np.full(shape, " ", "<U1"), plain, plain.copy(), np.zeros(shape, np.bool_))

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.glyphs.shape[0])

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.glyphs.shape[1])

    def write(
        self,
        row: int,
        column: int,
        text: str,
        fore: int = PLAIN,
        back: int | None = None,
        *,
        bold: bool = False,
    ) -> int:
        """Write one line of text, shortened at the right edge; gives the column after it."""
        if not 0 <= row < self.height or column >= self.width:
            return column
        room = self.width - column
        fitting = set_cell_size(fit_end(text.rstrip(), room), min(cell_len(text), room))
        for letter in fitting:
            size = cell_len(letter)
            if not size:
                continue  # a joining mark would change the width of what stands before it
            self.glyphs[row, column] = letter
            self.glyphs[row, column + 1 : column + size] = FILL
            column += size
        begin = column - cell_len(fitting)
        self.fore[row, begin:column] = fore
        self.bold[row, begin:column] = bold
        if back is not None:
            self.back[row, begin:column] = back
        return column

    def put(self, row: int, column: int, other: Cells) -> None:
        """Copy other cells here, as far as there is room."""
        height, width = min(other.height, self.height - row), min(other.width, self.width - column)
        if height <= 0 or width <= 0:
            return
        here = slice(row, row + height), slice(column, column + width)
        there = slice(0, height), slice(0, width)
        for mine, its in zip(self._arrays(), other._arrays(), strict=True):
            mine[here] = its[there]

    def paint(self, row: int, columns: slice, *, fore: int | None = None, back: int | None = None) -> None:
        """Colour what stands in a row."""
        if fore is not None:
            self.fore[row, columns] = fore
        if back is not None:
            self.back[row, columns] = back

    def lines(self) -> list[str]:
        """The text, a string per row, without spaces at the end."""
        return ["".join(row).rstrip() for row in self.glyphs]

    def _arrays(self) -> tuple[NDArray[np.str_], NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_]]:
        return self.glyphs, self.fore, self.back, self.bold


def stacked(parts: Sequence[Cells], width: int) -> Cells:
    """Cells below one another."""
    whole, row = Cells.blank(sum(part.height for part in parts), width), 0
    for part in parts:
        whole.put(row, 0, part)
        row += part.height
    return whole


def fit(text: str, width: int) -> str:
    """Text in exactly so many cells, shortened in the middle: names differ at their ends."""
    if cell_len(text) <= width:
        return set_cell_size(text, width)
    if width < 5:
        return set_cell_size(text, width)
    head = (width - 2) * 3 // 5
    tail = text
    while cell_len(tail) > width - 2 - head:
        tail = tail[1:]
    return set_cell_size(set_cell_size(text, head) + ".." + tail, width)


def fit_end(text: str, width: int) -> str:
    """Text in at most so many cells, cut at its end."""
    return text if cell_len(text) <= width else set_cell_size(text, max(0, width - 2)) + ".."
