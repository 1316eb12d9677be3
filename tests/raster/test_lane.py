"""Lanes: every value in its row, gaps left open, lone values drawn, spikes never lost."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from nanscope.raster.cells import PLAIN
from nanscope.raster.lane import LABELS, Look, Trace, labels, lane
from nanscope.raster.palette import Graph
from nanscope.raster.scale import MOST_DECADES, scale_of
from nanscope.replay.columns import Columns

BLANK = " "
HEIGHT, WIDTH = 8, 40


def columns(mean: NDArray[np.float64], low: NDArray[np.float64] | None = None) -> Columns:
    """A series in which the highest value is the mean."""
    bad = np.isnan(mean).astype(np.int64)
    return Columns(mean if low is None else low, mean, mean, bad, np.ones(len(mean), np.bool_))


def drawn(mean: NDArray[np.float64], graph: Graph, *, linear: bool = True) -> list[str]:
    """The lane as text."""
    look = Look(graph, linear=linear)
    return [
        "".join(row) for row in lane([Trace(columns(mean), 0xFF, focus=True)], HEIGHT, WIDTH, look)[0].glyphs
    ]


@pytest.mark.parametrize("graph", list(Graph))
def test_a_rising_line_rises(graph: Graph) -> None:
    """From the bottom left to the top right, with a mark in every column."""
    lines = drawn(np.linspace(0, 1, WIDTH * Look(graph).dots), graph)
    tops = [next(row for row in range(HEIGHT) if lines[row][at] != BLANK) for at in range(WIDTH)]
    assert tops == sorted(tops, reverse=True)
    assert (tops[0], tops[-1]) == (HEIGHT - 1, 0)


@pytest.mark.parametrize("graph", list(Graph))
def test_no_line_crosses_a_gap_and_a_lone_value_is_drawn(graph: Graph) -> None:
    """Cells over NaN are blank; one finite value between two gaps has its mark."""
    dots = Look(graph).dots
    values = np.full(WIDTH * dots, np.nan)
    values[: 10 * dots], values[20 * dots], values[30 * dots :] = 0.0, 0.5, 1.0
    lines = drawn(values, graph)
    marked = [any(line[at] != BLANK for line in lines) for at in range(WIDTH)]
    assert [at for at in range(WIDTH) if marked[at]] == [*range(10), 20, *range(30, WIDTH)]


@pytest.mark.parametrize("graph", list(Graph))
def test_a_spike_reaches_the_top(graph: Graph) -> None:
    """Of one column, on a log scale."""
    values = np.ones(WIDTH * Look(graph).dots)
    values[len(values) // 2] = 1e6
    assert drawn(values, graph, linear=False)[0][WIDTH // 2] != BLANK


def test_the_band_covers_lowest_to_highest() -> None:
    """Behind the line, in the rows of both values and all between."""
    dots = Look().dots
    high, low = np.full(WIDTH * dots, 1.0), np.zeros(WIDTH * dots)
    series = Columns(low, high, (low + high) / 2, np.zeros(len(low), np.int64), np.ones(len(low), np.bool_))
    cells, _ = lane([Trace(series, 0xFFFFFF, focus=True)], HEIGHT, WIDTH, Look(linear=True))
    assert (cells.back != PLAIN).all()


def test_ascii_is_ascii() -> None:
    """Whatever is drawn, with numbers beside it."""
    rng = np.random.default_rng(0)
    lines = drawn(np.exp(rng.normal(0, 4, WIDTH)), Graph.ASCII, linear=False)
    assert all(line.isascii() for line in lines)


def test_the_focus_lies_on_top() -> None:
    """Where two lines meet, the one in focus has the cell."""
    look = Look(linear=True)
    flat = columns(np.full(WIDTH * look.dots, 0.5))
    cells, _ = lane([Trace(flat, 1, focus=True), Trace(flat, 2)], HEIGHT, WIDTH, look)
    assert set(cells.fore[cells.glyphs != BLANK].tolist()) == {1}


def test_a_scale_keeps_the_usual_in_sight() -> None:
    """Of values over 40 decades it shows 12, and says that some lie above."""
    values = np.concatenate((np.ones(100), [1e30]))
    scale = scale_of([values], [values], linear=False)
    assert scale.high - scale.low <= MOST_DECADES
    assert scale.over
    assert 0 <= scale.share(np.array([1.0]))[0] < 1
    assert scale.share(np.array([1e30]))[0] == 1
    assert np.isnan(scale.share(np.array([np.nan]))[0])


def test_zeros_and_negatives_on_a_log_scale() -> None:
    """They stand at the bottom and are no error."""
    values = np.array([0.0, -1.0, 1.0, 10.0])
    scale = scale_of([values], [values], linear=False)
    assert scale.share(values)[:2].tolist() == [0.0, 0.0]


def test_labels_have_the_height_of_the_lane() -> None:
    """Each fits beside it."""
    cells = labels(scale_of([np.array([1e-3, 1e5])], [], linear=False), HEIGHT)
    assert (cells.height, cells.width) == (HEIGHT, LABELS)
    assert any("e" in line for line in cells.lines())
