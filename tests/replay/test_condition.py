"""Run-to-condition finds the row that a look at every row finds, forward and backward."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanscope.diagnosis import diagnose
from nanscope.errors import UsageError
from nanscope.replay.cases import Case
from nanscope.replay.condition import parse, search
from nanscope.run import MISSING, Floats, Run, is_nonfinite
from tests.builders import make_run
from tests.replay import story

COMPARE = {">": np.greater, "<": np.less, ">=": np.greater_equal, "<=": np.less_equal}


def slow(values: Floats, compare: str, limit: float, row: int, *, forward: bool) -> int | None:
    """The nearest row by looking at all of them."""
    with np.errstate(invalid="ignore"):
        holds = is_nonfinite(values) if not compare else COMPARE[compare](values.astype(np.float64), limit)
    hits = [int(i) for i in np.flatnonzero(holds) if (i > row if forward else i < row)]
    return (hits[0] if forward else hits[-1]) if hits else None


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 99),
    places=st.lists(
        st.tuples(st.integers(0, 19_999), st.sampled_from([np.nan, np.inf, -np.inf, MISSING, 9]))
    ),
    compare=st.sampled_from(["", *COMPARE]),
    limit=st.floats(-5, 5),
    row=st.integers(0, 19_999),
    forward=st.booleans(),
)
def test_as_a_look_at_every_row(
    seed: int, places: list[tuple[int, float]], compare: str, limit: float, row: int, *, forward: bool
) -> None:
    """Any series, any comparison, from anywhere."""
    values = np.random.default_rng(seed).normal(size=20_000).astype(np.float32)
    for place, special in places:
        values[place] = special
    run = make_run(loss=values)
    case = Case(Path("run.h5"), run, diagnose(make_run(loss=[1.0])))
    condition = parse(f"loss {compare} {limit!r}" if compare else "nan loss", case)
    assert search(case, condition, row, forward=forward) == slow(values, compare, limit, row, forward=forward)


def test_gradients_of_a_layer_in_a_file(file_of_one: Run) -> None:
    """`grad fc2 > 1e3` from the begin stops where the story grows; from the end at the last finite one."""
    case = Case(Path("run.h5"), file_of_one, diagnose(file_of_one))
    memory = story.case(1)
    index = next(i for i, c in enumerate(memory.header.columns) if str(c.site) == "fc2.weight.grad")
    values = memory.source.column(index, 0, len(memory))
    condition = parse("grad fc2 > 1e3", case)
    for row, forward in ((0, True), (len(memory), False)):
        expected = slow(values, ">", 1e3, row, forward=forward)
        assert expected is not None
        assert search(case, condition, row, forward=forward) == expected


def test_any_layer_is_the_nearest_of_all(file_of_one: Run) -> None:
    """`nan any` is the birth; backward from it there is none."""
    case = Case(Path("run.h5"), file_of_one, diagnose(file_of_one))
    condition = parse("nan any", case)
    assert search(case, condition, 0, forward=True) == story.BIRTH
    assert search(case, condition, story.BIRTH, forward=False) is None
    assert search(case, condition, 0, forward=True, last=story.BIRTH - 1) is None


@pytest.mark.parametrize(
    "text", ["", "loss", "loss > much", "grad > 1", "vigour fc2 > 1", "nan fc9", "a b c d e"]
)
def test_what_is_no_condition_is_refused(text: str) -> None:
    """With the forms that there are, or the names."""
    run = story.case(1024)
    with pytest.raises(UsageError):
        parse(text, Case(Path("run.h5"), run, diagnose(run)))
