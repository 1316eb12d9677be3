"""Columns hold what a look at every row finds: no spike, no NaN and no gap is lost or moved at any zoom."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanscope.errors import NotRecordedError
from nanscope.replay import columns
from nanscope.replay.columns import Columns, Edges, Reader, edges_of
from nanscope.run import MISSING, Floats, Run, is_missing, is_nonfinite
from nanscope.values import Kind, Site
from tests.builders import ArraySource, column, make_run
from tests.replay import story

SPECIAL = (np.nan, np.inf, -np.inf, MISSING, 1e30, -1e30, 0.0)


class Thinned(ArraySource):
    """Keeps no values of its rows, only their summaries."""

    def whole(self) -> tuple[tuple[int, int], ...]:
        """None."""
        return ()


def series(values: Floats) -> Run:
    """A run whose loss is given, bit by bit."""
    return make_run(loss=values)


def slow(values: Floats, edges: Edges) -> list[tuple[float, float, int, bool]]:
    """Lowest, highest, how many bad, whether any: of each column by looking at each row."""
    found = []
    for start, stop in zip(edges.starts, edges.stops, strict=True):
        part = values[start:stop] if stop > start else values[:0]
        finite = [float(x) for x in part if np.isfinite(x)]
        bad = int(is_nonfinite(part).sum())
        low, high = (min(finite), max(finite)) if finite else (np.nan, np.nan)
        found.append((low, high, bad, bool((~is_missing(part)).any())))
    return found


def told(found: Columns) -> list[tuple[float, float, int, bool]]:
    """Columns in the form of `slow`."""
    rows = zip(found.low, found.high, found.bad, found.measured, strict=True)
    return [(float(low), float(high), int(bad), bool(seen)) for low, high, bad, seen in rows]


def assert_exact(run: Run, values: Floats, edges: Edges) -> None:
    """What is read is what is there."""
    found = told(Reader(run).columns(None, "loss", edges))
    np.testing.assert_array_equal(np.array(found), np.array(slow(values, edges)))


def noisy(seed: int, rows: int, places: Sequence[tuple[float, int]]) -> Floats:
    """Noise with special values at shares of the rows."""
    values = np.random.default_rng(seed).normal(size=rows).astype(np.float32)
    for share, kind in places:
        values[min(rows - 1, int(share * rows))] = SPECIAL[kind]
    return values


PLACES = st.lists(st.tuples(st.floats(0, 1), st.integers(0, len(SPECIAL) - 1)), max_size=12)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 99),
    rows=st.integers(1, 40_000),
    places=PLACES,
    window=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    count=st.integers(1, 40),
)
def test_columns_are_exact_at_every_zoom(
    seed: int, rows: int, places: list[tuple[float, int]], window: tuple[float, float], count: int
) -> None:
    """Any series, any window, any number of columns: as the slow look."""
    values = noisy(seed, rows, places)
    start = int(min(window) * (rows - 1))
    stop = max(start + 1, int(max(window) * rows))
    assert_exact(series(values), values, edges_of(start, stop, count))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 99),
    places=PLACES,
    cuts=st.lists(st.integers(0, 9_000), min_size=2, max_size=12),
)
def test_uneven_columns_are_exact(seed: int, places: list[tuple[float, int]], cuts: list[int]) -> None:
    """Columns of another case, wide and narrow and empty ones beside each other."""
    values, at = noisy(seed, 9_000, places), np.sort(np.array(cuts, np.int64))
    assert_exact(series(values), values, Edges(at[:-1], at[1:]))


@pytest.mark.parametrize("rows", [65_536 * 2, 8_192 * 2, 300])
def test_stretches_of_nan_end_at_their_row(rows: int) -> None:
    """A NaN on the last row before an edge is in the column before it, and in no other."""
    values = np.zeros(rows, np.float32)
    values[rows // 2 - 1] = np.nan
    found = Reader(series(values)).columns(None, "loss", edges_of(0, rows, 2))
    assert found.bad.tolist() == [1, 0]


def test_mean_of_wide_columns_is_near_that_of_the_rows() -> None:
    """Within a part of the spread that the summaries at the edges can make."""
    values = noisy(3, 200_000, ())
    edges = edges_of(17, 199_000, 9)
    found = Reader(series(values)).columns(None, "loss", edges).mean
    exact = [values[a:b].mean(dtype=np.float64) for a, b in zip(edges.starts, edges.stops, strict=True)]
    np.testing.assert_allclose(found, exact, atol=2e-3)


def test_mean_of_narrow_columns_is_that_of_the_finite_values() -> None:
    """What is missing or bad has no part in it."""
    values = column([1.0, np.nan, 3.0, np.inf])
    values = np.append(values, MISSING).astype(np.float32)
    found = Reader(series(values)).columns(None, "loss", edges_of(0, 5, 1))
    assert found.mean.tolist() == [2.0]


def test_where_only_summaries_are_kept_nothing_is_lost() -> None:
    """A bad value near an edge is in its column, and may be in the neighbour's."""
    values = noisy(0, 40_000, ((0.5, 0), (0.25, 4)))
    run = series(values)
    source = Thinned([values], np.arange(40_000), np.arange(40_000.0))
    run = Run(run.name, run.header, source)
    edges = edges_of(0, 40_000, 30)
    found, exact = Reader(run).columns(None, "loss", edges), slow(values, edges)
    assert all(bad >= true[2] for bad, true in zip(found.bad, exact, strict=True))
    assert all(high >= true[1] for high, true in zip(found.high, exact, strict=True))


@given(st.integers(0, 10**7), st.integers(1, 10**7), st.integers(1, 60))
def test_a_row_is_in_the_column_of_the_playhead(start: int, rows: int, count: int) -> None:
    """Windows wider than the columns are covered without overlap, each row where the playhead is drawn."""
    edges = edges_of(start, start + rows, count)
    assert (edges.stops > edges.starts).all()
    assert (int(edges.starts[0]), int(edges.stops[-1])) == (start, start + rows)
    if rows < count:
        assert set(edges.starts.tolist()) == set(range(start, start + rows))
        return
    assert edges.starts[1:].tolist() == edges.stops[:-1].tolist()
    for number, (first, stop) in enumerate(zip(edges.starts, edges.stops, strict=True)):
        assert {(int(row) - start) * count // rows for row in (first, stop - 1)} == {number}


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that has seen everything holds no more than it may."""
    monkeypatch.setattr(columns, "MOST_BYTES", 40_000)
    reader = Reader(series(noisy(0, 60_000, ())))
    for start in range(0, 60_000, 5_000):
        reader.columns(None, "loss", edges_of(start, start + 5_000, 50))
        assert reader._bytes <= 40_000 or len(reader._kept) == 1


def test_what_is_kept_is_what_was_read() -> None:
    """The second answer is the first."""
    reader, edges = Reader(series(noisy(0, 9_000, ((0.4, 0),)))), edges_of(0, 9_000, 20)
    first = told(reader.columns(None, "loss", edges))
    np.testing.assert_array_equal(first, told(reader.columns(None, "loss", edges)))


def test_what_was_not_recorded_is_said() -> None:
    """No columns of a series that is not there."""
    with pytest.raises(NotRecordedError, match="dead_fraction"):
        Reader(series(column([1.0]))).columns(Site("fc", Kind.OUTPUT), "dead_fraction", edges_of(0, 1, 1))


@pytest.mark.parametrize("count", [7, 60, 216])
def test_the_story_from_its_file(file_of_one: Run, count: int) -> None:
    """A real run file: each series of the dead case at three zooms around its birth."""
    run, memory = file_of_one, story.case(1)
    for index in range(0, len(run.header.columns), 5):
        place = run.header.columns[index]
        values = memory.source.column(memory.index(place.site, place.stat), 0, len(memory))
        for start, stop in ((0, 60_000), (40_000, 58_001), (42_000, 42_100)):
            edges = edges_of(start, stop, count)
            found = told(Reader(run).columns(place.site, place.stat, edges))
            np.testing.assert_array_equal(np.array(found), np.array(slow(values, edges)))
