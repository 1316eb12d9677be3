"""Cells: text of any width stays in its row, and nothing is written outside."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from nanscope.raster.cells import FILL, Cells, fit, fit_end, stacked

WORDS = st.text(st.characters(categories=("L", "N", "P", "S", "M"), include_characters="层é"), max_size=30)


@given(WORDS, st.integers(-3, 12), st.integers(0, 12))
def test_a_text_never_leaves_its_row(text: str, column: int, width: int) -> None:
    """Wide letters, joining marks and long names keep every row at its width."""
    cells = Cells.blank(2, width)
    end = cells.write(1, max(0, column), text)
    assert end <= max(width, 0, column)
    assert not cells.lines()[0]
    assert all(cell_len("".join(row)) <= width for row in cells.glyphs)


def test_a_wide_letter_takes_two_cells() -> None:
    """The second holds nothing, so that a row has as many cells as columns."""
    cells = Cells.blank(1, 6)
    assert cells.write(0, 0, "层1") == 3
    assert cells.glyphs[0].tolist() == ["层", FILL, "1", " ", " ", " "]


def test_what_is_put_over_the_edge_is_cut() -> None:
    """And what is put outside is not there."""
    cells, other = Cells.blank(3, 4), Cells.blank(2, 3)
    other.glyphs[:] = "x"
    cells.put(2, 2, other)
    cells.put(5, 0, other)
    assert cells.lines() == ["", "", "  xx"]


def test_stacked_parts_stand_below_one_another() -> None:
    """Each keeps its rows."""
    first, second = Cells.blank(1, 2), Cells.blank(2, 2)
    first.write(0, 0, "a")
    second.write(1, 1, "b")
    assert stacked([first, second], 2).lines() == ["a", "", " b"]


@given(WORDS, st.integers(0, 20))
def test_fit_gives_exactly_so_many_cells(text: str, width: int) -> None:
    """Short names are filled up, long ones lose their middle."""
    assert cell_len(fit(text, width)) == width
    assert cell_len(fit_end(text, width)) <= max(width, 2)


@pytest.mark.parametrize(("text", "short"), [("layers.final_layer", "laye..ayer"), ("abc", "abc       ")])
def test_fit_keeps_both_ends(text: str, short: str) -> None:
    """Names differ at their ends."""
    assert fit(text, 10) == short


def test_a_blank_of_no_size() -> None:
    """A pane without room is no error."""
    cells = Cells.blank(-1, -5)
    assert cells.glyphs.shape == (0, 0)
    assert np.array_equal(cells.fore, cells.back)
