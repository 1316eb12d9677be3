"""A confusion matrix as a heat map: a shade and a count in every cell, so that it reads without colour."""

from __future__ import annotations

from itertools import chain

from rich.text import Text

from nanscope.numbers import count
from nanscope.reporters._page import BAD, DIM, STRONG, Page, clip
from nanscope.view import Compared

# Dark blue to yellow with rising lightness, after cividis; the text on it is light, then dark.
COLOURS = ("", "white on #202a44", "white on #575d6d", "black on #a59c74", "bold black on #f5dd4b")
STEPS = (0.0, 0.25, 0.5, 0.75)
"""A cell takes the next shade where its share of the row exceeds the step."""


def draw_heatmap(page: Page, case: Compared) -> list[Text]:
    """The lines of one heat map; a sentence instead where the page is too narrow; empty without a matrix.

    Rows are true classes, columns are predicted classes.
    """
    matrix = case.score.confusion if case.score else ()
    if not matrix:
        return []
    label = clip(page.words(case.label), page.width - 2)
    title = Text(f"{page.glyphs.error} {label}", BAD) if case.reading else Text(label, STRONG)
    cell = max(len(str(value)) for value in (*chain.from_iterable(matrix), len(matrix) - 1)) + 1
    row_label = len(str(len(matrix) - 1))
    if row_label + 1 + cell * len(matrix) > page.width:
        return [title, Text(f"{count(len(matrix))} classes: too wide for the page, see --format json", DIM)]
    columns = "".join(f"{column:>{cell}}" for column in range(len(matrix)))
    head = Text(f"{'':<{row_label}} {columns}", DIM)
    rows = (Text(f"{true:>{row_label}} ", DIM) + _row(page, row, cell) for true, row in enumerate(matrix))
    return [title, head, *rows]


def _row(page: Page, row: tuple[int, ...], cell: int) -> Text:
    total = sum(row)
    line = Text()
    for value in row:
        shade = sum(value / total > step for step in STEPS) if total else 0
        # The shade fills what the number leaves free: one mark at least.
        text = f"{value}" if value else page.glyphs.shades[0]
        fill = page.glyphs.shades[shade] if value else " "
        line.append(fill * (cell - len(text)) + text, COLOURS[shade])
    return line
