"""Heat maps: what is not finite is on top of everything, in colours and in digits, against each value."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanscope.raster.bars import bar, class_bars, matrix
from nanscope.raster.heat import columns_per_cell, heat, rail
from nanscope.raster.lane import Look
from nanscope.raster.palette import BAD_BACK, Graph, choose, decades, glyphs_of

LOOKS = [Look(graph, digits=digits) for graph in Graph for digits in (False, True)]


@pytest.mark.parametrize("look", LOOKS, ids=lambda look: f"{look.graph}{'-digits' if look.digits else ''}")
@given(st.integers(0, 2**32 - 1))
def test_every_bad_column_is_marked_and_no_other(look: Look, seed: int) -> None:
    """One bad value in the columns of a cell marks the cell."""
    random, per = np.random.default_rng(seed), columns_per_cell(look)
    values, bad = random.normal(0, 4, (5, 12 * per)), random.random((5, 12 * per)) < 0.1
    values[random.random(values.shape) < 0.1] = np.nan
    cells = heat(values, bad, look)
    expected = bad.reshape(5, 12, per).any(2)
    assert np.array_equal(cells.glyphs == glyphs_of(look.graph).bad, expected)
    assert np.array_equal(cells.back == BAD_BACK, expected)


def test_digits_count_whole_decades() -> None:
    """Nothing measured is blank, the usual is a dot, more than nine is nine."""
    values = np.array([[np.nan, -3.0, 0.2, 1.0, 3.7, 40.0]])
    cells = heat(values, np.zeros(values.shape, np.bool_), Look(digits=True))
    assert "".join(cells.glyphs[0]) == " ··139"


def test_shares_have_digits_too() -> None:
    """Tenths."""
    values = np.array([[0.0, 0.25, 0.95]])
    cells = heat(values, np.zeros(values.shape, np.bool_), Look(digits=True), of_shares=True)
    assert "".join(cells.glyphs[0]) == "·29"


def test_colours_get_lighter_with_every_decade() -> None:
    """So that a print without colours can be read."""
    colours = decades(np.arange(0.0, 9.0))
    light = [0.3 * (c >> 16) + 0.6 * (c >> 8 & 255) + 0.1 * (c & 255) for c in colours.tolist()]
    assert light == sorted(light)
    assert len(set(light)) == 9


def test_a_bad_value_wins_over_the_playhead() -> None:
    """It is shown in reverse; a healthy cell has a bar."""
    values, bad = np.zeros((2, 3)), np.array([[False, True, False], [False] * 3])
    cells = heat(values, bad, Look(Graph.ASCII, playhead=1))
    assert cells.glyphs[:, 1].tolist() == ["X", "|"]
    assert cells.fore[0, 1] == BAD_BACK


def test_the_rail() -> None:
    """One row: a mark where something was bad."""
    assert rail(np.array([False, True, False]), Look(Graph.ASCII)).lines() == [".X."]


@pytest.mark.parametrize(
    ("wanted", "environ", "encoding", "graph"),
    [
        ("auto", {}, "utf-8", Graph.BRAILLE),
        ("auto", {"TERM": "linux"}, "UTF-8", Graph.BLOCK),
        ("auto", {}, "ANSI_X3.4-1968", Graph.ASCII),
        ("block", {}, "ascii", Graph.BLOCK),
    ],
)
def test_what_is_drawn_with(wanted: str, environ: dict[str, str], encoding: str, graph: Graph) -> None:
    """As wanted; else by encoding and terminal."""
    assert choose(wanted, environ, encoding) is graph


@given(st.floats(0, 1), st.integers(1, 40))
def test_a_bar_is_as_long_as_its_share(share: float, width: int) -> None:
    """To an eighth of a cell."""
    assert abs(len(bar(share, width, Graph.BRAILLE)) - share * width) <= 1
    assert len(bar(share, width, Graph.ASCII)) == round(share * width)


def test_class_bars_tell_shares() -> None:
    """In per cent of all predictions, beside the true ones."""
    text = "\n".join(class_bars([30, 10, 0], 3, 44, Graph.ASCII, against=[1, 1, 2]).lines())
    assert [line.split()[-3] for line in text.splitlines()] == ["75%", "25%", "0%"]
    assert "of 50%" in text


def test_a_matrix_holds_its_counts() -> None:
    """Rows are true classes; what does not fit is said."""
    counts = np.array([[5.0, 0.0], [2.0, 3.0]])
    lines = matrix(counts, 5, 30, Graph.ASCII).lines()
    assert [line.split() for line in lines] == [["0", "1"], ["0", "5", "."], ["1", "2", "3"]]
    assert "too wide" in matrix(np.ones((30, 30)), 5, 60, Graph.ASCII).lines()[0]
