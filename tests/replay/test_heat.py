"""Heat maps hide no bad step and no spike at any zoom; the readout tells NaN from infinite."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nanscope.diagnosis import diagnose
from nanscope.replay.axis import Axis
from nanscope.replay.cases import Case
from nanscope.replay.columns import edges_of
from nanscope.replay.heat import heat_of, reference_of, usual_of
from nanscope.replay.place import Place
from nanscope.replay.readout import Line, bad_in, readout, value_at, worded
from nanscope.replay.stats import sites_of
from nanscope.run import MISSING, Run, is_missing, is_nonfinite
from nanscope.values import Kind
from tests.builders import every, make_run
from tests.replay import story

ZOOMS = ((0, 60_000), (30_000, 60_000), (41_000, 43_000), (41_917, 42_117), (42_010, 42_025))


@pytest.fixture(scope="module")
def dead() -> Case:
    """The case that dies."""
    run = story.case(1)
    return Case(Path(run.name), run, diagnose(run))


def case_of(run: Run) -> Case:
    """A run in memory as a case."""
    return Case(Path(run.name), run, diagnose(make_run(loss=[1.0])))


@pytest.mark.parametrize(("start", "stop"), ZOOMS)
@pytest.mark.parametrize("stat", ["output norm", "grad norm"])
def test_heat_as_a_look_at_every_row(dead: Case, stat: str, start: int, stop: int) -> None:
    """Bad where any row of a column is bad, else decades of the largest above the reference."""
    sites, edges = sites_of(dead, stat), edges_of(start, stop, 54)
    usual = usual_of(dead, stat)
    found = heat_of(dead, sites, stat, edges, usual)
    for at, site in enumerate(sites):
        values = dead.run.series(site)
        for column, (first, last) in enumerate(zip(edges.starts, edges.stops, strict=True)):
            part = values[first:last]
            assert found.bad[at, column] == is_nonfinite(part).any()
            if np.isfinite(part).any():
                expected = np.log10(float(part[np.isfinite(part)].max()) / usual[at])
                assert found.values[at, column] == pytest.approx(expected, abs=1e-5)


def test_a_spike_of_one_step_is_hot_at_full_range(dead: Case) -> None:
    """Four decades above its neighbours."""
    sites, edges = sites_of(dead, "output norm"), edges_of(0, 60_000, 54)
    found = heat_of(dead, sites, "output norm", edges, usual_of(dead, "output norm")).values
    at = [site.name for site in sites].index("fc1")
    column = int(np.searchsorted(edges.starts, story.SPIKE, "right")) - 1
    assert found[at, column] > found[at, column - 1] + 3
    assert found[at, column] > found[at, column + 1] + 3


def test_usual_is_near_the_median_of_the_first_tenth(dead: Case) -> None:
    """Of the values themselves, within what averaging 1/64 of them does."""
    for site, usual in zip(sites_of(dead, "output norm"), usual_of(dead, "output norm"), strict=True):
        exact = float(np.median(dead.run.series(site)[:6_000]))
        assert usual == pytest.approx(exact, rel=0.15)


def test_what_is_measured_now_and_then_holds() -> None:
    """Until it is measured again; before the first and behind the end there is nothing."""
    case = case_of(
        make_run(outputs={"fc": np.append([MISSING], every(10, np.full(39, 5.0))).astype(np.float32)})
    )
    sites = sites_of(case, "output norm")
    found = heat_of(case, sites, "output norm", edges_of(0, 40, 40), np.ones(1)).values[0]
    assert np.isnan(found[0])
    np.testing.assert_allclose(found[1:], np.log10(5.0), rtol=1e-6)


def test_references(dead: Case) -> None:
    """Its own begin, nothing, or the baseline's of the same site."""
    run = story.case(1024)
    baseline = Case(Path(run.name), run, diagnose(run))
    own = reference_of(dead, baseline, "output norm", "own")
    np.testing.assert_array_equal(own, usual_of(dead, "output norm"))
    np.testing.assert_array_equal(reference_of(dead, baseline, "output norm", "raw"), np.ones(len(own)))
    theirs = reference_of(dead, baseline, "output norm", "baseline")
    np.testing.assert_array_equal(theirs, usual_of(baseline, "output norm"))


@pytest.mark.parametrize(
    ("value", "word"),
    [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf"), (0.0, "0"), (0.332, "0.332"), (9.4e12, "9.40e+12")],
)
def test_numbers_in_words(value: float, word: str) -> None:
    """Bad values by their names."""
    assert worded(value) == word


def test_nan_and_infinite_are_told_apart(dead: Case) -> None:
    """The loss of the dead case is NaN, its largest logit infinite at one step."""
    lines = lines_at(dead, story.INFINITE)
    assert (lines["loss"].value, lines["logits max"].value) == ("nan", "inf")
    assert lines["loss"].mark == lines["logits max"].mark == 2


def test_the_readout_before_and_at_the_birth(dead: Case) -> None:
    """The gradient of `fc2` is the first to go, and is finite one step before."""
    before, at = lines_at(dead, story.BIRTH - 1), lines_at(dead, story.BIRTH)
    assert (before["grad norm"].mark, at["grad norm"].mark) == (0, 2)
    assert (before["grad norm"].rises, at["output norm"].mark) == (1, 0)
    assert bad_in(dead, story.BIRTH - 1) == (0, 0)
    assert bad_in(dead, story.BIRTH) == (16, 0)


def test_what_is_measured_now_and_then_is_read_where_it_was(dead: Case) -> None:
    """The last measurement, not the gap."""
    site = next(s for s in dead.run.sites if s.kind is Kind.WEIGHT)
    values = dead.run.series(site)
    row = 12_379
    last = next(r for r in range(row, -1, -1) if not is_missing(values[r : r + 1])[0])
    assert last < row
    assert value_at(dead, site, "l2", row) == values[last]


def lines_at(case: Case, row: int) -> dict[str, Line]:
    """The readout of `fc2`, by label."""
    place = Place(row=row, rows=case.rows, stop=case.rows, module="fc2")
    return {line.label: line for line in readout(case, place, Axis(case))}
