"""The raw numbers: no digit lost, NaN and infinities in words, what changed, and the table that is copied."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanscope.diagnosis import diagnose
from nanscope.replay.cases import Case
from nanscope.replay.raw import as_tsv, columns_of, entries, exact, name_of, values
from nanscope.run import MISSING, Run
from tests.builders import every, make_run
from tests.replay import story
from tests.replay.story import INFINITE


def opened(run: Run) -> Case:
    """A run in memory as a case."""
    return Case(Path("a.h5"), run, diagnose(run))


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_no_digit_is_lost(value: float) -> None:
    """What is shown reads back as the very same 32-bit number."""
    assert np.float32(exact(np.float32(value))).tobytes() == np.float32(value).tobytes()


@pytest.mark.parametrize(
    ("value", "word"), [(np.nan, "NaN"), (np.inf, "Inf"), (-np.inf, "-Inf"), (MISSING, "-"), (0.1, "0.1")]
)
def test_what_is_no_number_is_a_word(value: float, word: str) -> None:
    """NaN, both infinities and what was not measured are told apart."""
    assert exact(np.float32(value)) == word


def test_what_differs_from_the_step_before() -> None:
    """Held against a plain loop, also for the first row that is shown, and for a NaN after a NaN."""
    losses = [1.0, 1.0, 2.0, np.nan, np.nan, np.inf]
    case = opened(make_run(loss=losses))
    index = case.run.index(None, "loss")
    stored = np.array(losses, np.float32)
    for start in range(len(losses)):
        found = values(case, index, start, len(losses))
        assert [each.text for each in found] == [exact(value) for value in stored[start:]]
        expected = [
            i > 0 and stored[i].tobytes() != stored[i - 1].tobytes() for i in range(start, len(losses))
        ]
        assert [each.changed for each in found] == expected
        assert [each.bad for each in found] == [not np.isfinite(value) for value in stored[start:]]


def test_the_order_of_reading() -> None:
    """Scalars, the layer in focus, the others; the counts of classes last; nothing is left out."""
    case = opened(story.case(32))
    columns = columns_of(case, "fc2")
    names = [name_of(column) for _, column in columns]
    assert sorted(index for index, _ in columns) == list(range(len(case.run.header.columns)))
    assert names.index("loss") < names.index("fc2.output l2") < names.index("fc1.output l2")
    assert names[-1].startswith("predicted_")


def test_a_place_is_named_once() -> None:
    """Its stats stand below its name; scalars have no place."""
    case = opened(
        make_run(outputs={"fc": [1.0, 2.0]}, weights={"fc.weight": every(1, np.ones(2))}, loss=[1.0, 2.0])
    )
    lines = entries(columns_of(case, "fc"))
    places = [line.place for line in lines if line.index is None]
    assert len(places) == len(set(places)) == 2
    assert (lines[0].place, lines[0].stat) == ("", "loss")
    above = ""
    for line in lines:
        above = line.place if line.index is None else above
        assert line.place in ("", above)


def test_the_table_that_is_copied() -> None:
    """A line per step, tabs between, every number as it was recorded; cut at the ends of the run."""
    case = opened(story.case(1))
    columns = columns_of(case, "fc2")
    lines = [line.split("\t") for line in as_tsv(case, columns, INFINITE, 1).splitlines()]
    assert [line[0] for line in lines] == ["step", *(str(INFINITE + i) for i in (-1, 0, 1))]
    at = lines[0].index("logits_abs_max")
    assert [line[at] for line in lines[1:]] == ["NaN", "Inf", "NaN"]
    assert all(len(line) == len(lines[0]) for line in lines)
    assert len(as_tsv(case, columns, 0, 1).splitlines()) == 3
    assert len(as_tsv(case, columns, case.rows - 1, 1).splitlines()) == 3
