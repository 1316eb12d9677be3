"""Several runs side by side: a table of the cases, and what each of them predicts as a heat map."""

from __future__ import annotations

from typing import TextIO

from rich.text import Text

from nanscope.numbers import count, number, score
from nanscope.reporters._page import BAD, DIM, STRONG, Page, fit
from nanscope.reporters.heatmap import draw_heatmap
from nanscope.view import Compared, Comparison

LABEL_CELLS = 16
EVALUATED = (
    ("test", "loss", 7),
    ("", "accuracy", 8),
    ("macro", "F1", 6),
    ("seconds", "/ epoch", 7),
    ("updates", "/ epoch", 7),
)
TRAINED = (("", "steps", 10), ("loss at", "start", 9), ("loss at", "end", 9))
"""Columns of runs of which none was evaluated."""
LAST = ("verdict, first", "non-finite step")
GAP = "   "


def render_comparison(comparison: Comparison, out: TextIO) -> None:
    """Write the comparison as text in 80 columns; the last line is the next command to type."""
    page = Page(out)
    if comparison.job:
        page.block("", comparison.job, DIM)
        page.line()
    _table(page, comparison)
    page.line()
    page.block("", comparison.difference)
    _heatmaps(page, comparison)
    page.line()
    page.line(Text(page.literal(comparison.command), STRONG))


def _table(page: Page, comparison: Comparison) -> None:
    evaluated = any(case.score for case in comparison.cases)
    columns, cells = (EVALUATED, _scores) if evaluated else (TRAINED, _losses)
    for row in (0, 1):
        titles = "  ".join(f"{column[row]:>{column[2]}}" for column in columns)
        page.line(Text(f"{('', 'case')[row]:<{LABEL_CELLS}}{titles}  {LAST[row]}", DIM))
    for case in comparison.cases:
        numbers = "  ".join(f"{cell:>{column[2]}}" for cell, column in zip(cells(case), columns, strict=True))
        page.line(_row(page, case, numbers))
    if evaluated and any(case.estimated for case in comparison.cases):
        page.block("", "~ from a part of an epoch", DIM)
    for case in comparison.cases:
        for notice in case.notices:
            page.block(f"{page.glyphs.warning} ", f"{case.label}: {notice}")


def _row(page: Page, case: Compared, numbers: str) -> Text:
    at = "" if case.first_nonfinite is None else f" {case.first_nonfinite}"
    standing = page.standing(case.standing)
    return Text.assemble(fit(page.words(case.label), LABEL_CELLS), numbers, "  ", standing, at)


def _scores(case: Compared) -> tuple[str, ...]:
    """Of the last evaluation, and how long an epoch takes."""
    known = case.seconds is not None and case.seconds < 100
    seconds = f"{'~' * case.estimated}{score(case.seconds) if known else number(case.seconds)}"
    updates = number(None) if case.updates is None else count(case.updates)
    result = case.score
    scores = [score(value) for value in (result.loss, result.accuracy, result.f1)] if result else ["-"] * 3
    return (*scores, seconds, updates)


def _losses(case: Compared) -> tuple[str, ...]:
    """Of the training."""
    first, last = case.loss or (None, None)
    return count(int(case.facts["steps"])), number(first), number(last)


def _heatmaps(page: Page, comparison: Comparison) -> None:
    """As many beside each other as fit; below each row of them the words for those that mean nothing."""
    drawn = [(case, draw_heatmap(page, case)) for case in comparison.cases if case.score]
    drawn = [(case, lines) for case, lines in drawn if lines]
    if not drawn:
        return
    page.heading("Predictions", "rows: true class, columns: predicted class; shade: share of the row")
    for group in _groups([lines for _, lines in drawn], page.width):
        page.line()
        _beside(page, group)
    for case, _ in drawn:
        if case.reading:
            page.line()
            head = Text(f"{page.glyphs.error} {page.words(case.label)}", BAD)
            page.block(Text.assemble(head, "  "), case.reading)


def _groups(blocks: list[list[Text]], width: int) -> list[list[list[Text]]]:
    groups: list[list[list[Text]]] = []
    left = 0
    for block in blocks:
        wide = max(line.cell_len for line in block)
        if not groups or wide + len(GAP) > left:
            groups.append([])
            left = width + len(GAP)
        groups[-1].append(block)
        left -= wide + len(GAP)
    return groups


def _beside(page: Page, blocks: list[list[Text]]) -> None:
    """Blocks next to each other, their first lines level."""
    widths = [max(line.cell_len for line in block) for block in blocks]
    for row in range(max(map(len, blocks))):
        line = Text()
        for block, width in zip(blocks, widths, strict=True):
            part = block[row] if row < len(block) else Text()
            line += part + Text(" " * (width - part.cell_len) + GAP)
        line.rstrip()
        page.line(line)
