"""Parts of lines are written where they belong, and nothing else is."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console
from rich.segment import Segment
from textual._compositor import ChopsUpdate
from textual.app import App
from textual.strip import Strip

from nanscope.tui.spans import narrowed

MOVE = re.compile(r"\x1b\[(\d+);(\d+)H")
LINES = ("the first line of all", "层and 层 are wide", "the last line of three")


def drawn(update: ChopsUpdate) -> list[tuple[int, int, str]]:
    """Row, column and characters of everything that is written."""
    console = Console(file=io.StringIO(), color_system=None)
    pieces = MOVE.split(narrowed(update).render_segments(console))[1:]
    return [
        (int(row) - 1, int(column) - 1, text)
        for row, column, text in zip(pieces[::3], pieces[1::3], pieces[2::3], strict=True)
    ]


def update_of(spans: list[tuple[int, int, int]], cut: int) -> ChopsUpdate:
    """An update as Textual makes it, of two widgets side by side."""
    strips = [Strip([Segment(line)]).adjust_cell_length(24) for line in LINES]
    chops = [{0: strip.crop(0, cut), cut: strip.crop(cut, 24)} for strip in strips]
    return ChopsUpdate(chops, spans, [[cut, 24]] * len(LINES))


@pytest.mark.parametrize(
    ("span", "pieces"),
    [
        ((0, 4, 9), [(0, 4, "first")]),
        ((0, 8, 14), [(0, 8, "t "), (0, 10, "line")]),
        ((1, 6, 8), [(1, 6, "层")]),
        ((2, 10, 13), [(2, 10, "ine")]),
        ((2, 0, 24), [(2, 0, "the last l"), (2, 10, "ine of three  ")]),
    ],
)
def test_a_part_is_written_where_it_begins(
    span: tuple[int, int, int], pieces: list[tuple[int, int, str]]
) -> None:
    """Not from the left end of its widget; a part that lies in two widgets is two pieces."""
    assert drawn(update_of([span], 10)) == pieces


def test_another_update_is_left_alone() -> None:
    """Only one of parts of lines is made shorter."""
    strip = Strip([Segment("a whole screen")])
    assert narrowed(strip) is strip
    assert narrowed(None) is None


def test_textual_still_shows_updates_where_they_are_caught() -> None:
    """The replay's way in is Textual's own method; were it renamed, everything would be written in full."""
    assert "_display" in vars(App)
