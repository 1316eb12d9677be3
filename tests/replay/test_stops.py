"""Stops are visited in order; a case leaves its baseline where a look at every stretch says."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from nanscope.diagnosis import diagnose
from nanscope.replay.cases import Case
from nanscope.replay.marks import Mark
from nanscope.replay.stops import CELLS, divergence, first_bad, next_stop, stops_of
from nanscope.run import Run
from nanscope.values import Severity
from tests.builders import make_run
from tests.replay import story


def case_of(run: Run) -> Case:
    """A run in memory as a case."""
    return Case(Path(run.name), run, diagnose(run))


def losses(values: Sequence[float], batch: float) -> Case:
    """A case of which only the loss is known."""
    return case_of(make_run(loss=np.array(values, np.float32), samples=batch))


def slow(mine: Sequence[float], its: Sequence[float], batches: tuple[float, float]) -> int | None:
    """Where the loss is worse than twice the baseline's until the end, stretch by stretch, row by row."""
    end = min(len(mine) * batches[0], len(its) * batches[1])

    def stretches(batch: float) -> list[range]:
        rows = [max(0, int(end * i / CELLS / batch) - 1) for i in range(CELLS + 1)]
        rows[-1] += 1
        return [range(a, b) for a, b in pairwise(rows)]

    worse_from = None
    pairs = list(zip(stretches(batches[0]), stretches(batches[1]), strict=True))
    for own, other in reversed(pairs):
        if not own:
            continue
        usual = np.mean([its[row] for row in other or [other.start]])
        loss = np.mean([mine[row] for row in own])
        if np.isfinite(usual) and not (not np.isfinite(loss) or loss > usual + abs(usual)):
            break
        if np.isfinite(usual):
            worse_from = own.start
    return worse_from


def test_all_events_in_order_forward_and_backward() -> None:
    """`n` from the begin visits what `N` visits from the end."""
    case = case_of(story.case(1))
    stops = stops_of(case, (Mark(77, "here"),))
    assert stops[0].what == "mark: here"
    for forward, begin in ((True, -1), (False, case.rows)):
        row, visited = begin, []
        while (stop := next_stop(stops, row, forward=forward)) is not None:
            visited.append(stop)
            row = stop.row
        assert visited == list(stops if forward else stops[::-1])


def test_of_several_events_at_a_row_the_worst() -> None:
    """A mark at the birth does not hide it."""
    stops = stops_of(case_of(story.case(1)), (Mark(story.BIRTH, "noted"),))
    assert [s.severity for s in stops if s.row == story.BIRTH] == [Severity.ERROR]


def test_the_first_bad_value_of_the_story() -> None:
    """In `fc2` at its step; a healthy case has none."""
    bad = first_bad(case_of(story.case(1)))
    assert bad is not None
    assert (bad.row, bad.module) == (story.BIRTH, "fc2")
    assert first_bad(case_of(story.case(32))) is None


def test_the_dead_case_leaves_while_it_grows() -> None:
    """Between the first eightfold step and the birth, but for the width of a stretch."""
    row = divergence(case_of(story.case(1)), case_of(story.case(1024)))
    assert row is not None
    assert story.BIRTH - story.GROWTH - 60_000 // CELLS - 1 <= row <= story.BIRTH


def test_healthy_cases_do_not_part() -> None:
    """Nor does a case from itself."""
    healthy, baseline = case_of(story.case(32)), case_of(story.case(1024))
    assert divergence(healthy, baseline) is None
    assert divergence(baseline, baseline) is None


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("rows", "batches"), [((4_000, 1_000), (1.0, 4.0)), ((700, 700), (1.0, 1.0)), ((5_000, 40), (1.0, 128.0))]
)
@pytest.mark.parametrize("seed", range(3))
def test_as_the_slow_ratio_test(
    seed: int, rows: tuple[int, int], batches: tuple[float, float], sign: int
) -> None:
    """Noise that leaves somewhere, comes back once, or dies."""
    rng = np.random.default_rng(seed)
    its = sign * rng.uniform(0.9, 1.1, rows[1])
    mine = sign * rng.uniform(0.9, 1.1, rows[0])
    mine[rows[0] // 5 : rows[0] // 4] += 9
    mine[rows[0] // 2 :] += 3
    if seed == 2:
        mine[-rows[0] // 8 :] = np.nan
    found = divergence(losses(mine.tolist(), batches[0]), losses(its.tolist(), batches[1]))
    mine32, its32 = (x.astype(np.float32).astype(float).tolist() for x in (mine, its))
    assert found is not None
    assert found == slow(mine32, its32, batches)


@pytest.mark.parametrize(("factor", "parts"), [(1.9, False), (2.1, True)])
def test_twice_is_the_limit(factor: float, parts: bool) -> None:
    """A near miss stays."""
    baseline = losses([1.0] * 600, 1.0)
    assert (divergence(losses([1.0] * 300 + [factor] * 300, 1.0), baseline) is not None) == parts


def test_a_loss_that_comes_back_has_not_left() -> None:
    """However high it was."""
    assert divergence(losses([1.0] * 200 + [9.0] * 200 + [1.0] * 200, 1.0), losses([1.0] * 600, 1.0)) is None


def test_a_nan_in_the_last_step_alone_is_seen() -> None:
    """The last stretch ends with the last row."""
    row = divergence(losses([1.0] * 599 + [np.nan], 1.0), losses([1.0] * 600, 1.0))
    assert row is not None
    assert row >= 590
