"""Events and epochs in and out of a compacted file's tables."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanscope.store.compaction.fold import fold, parse_line, unfold
from nanscope.store.journal import to_json
from nanscope.values import Epoch

counts = st.integers(0, 2**63 - 1)
floats = st.floats(width=64)


@st.composite
def matrices(draw: st.DrawFn) -> list[list[int]]:
    """Square tables of counts, the empty one included."""
    size = draw(st.integers(0, 4))
    row = st.lists(st.integers(0, 2**32 - 1), min_size=size, max_size=size)
    return draw(st.lists(row, min_size=size, max_size=size))


def event(epoch: Epoch) -> Mapping[str, Any]:
    """As the reader of a live file gives it."""
    return json.loads(to_json({"kind": "epoch", **epoch.to_dict()}))  # type: ignore[no-any-return] # JSON


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.lists(st.builds(Epoch, counts, counts, counts, floats, floats, floats, floats, matrices()), min_size=1)
)
def test_epochs_come_back_from_the_table(epochs: list[Epoch]) -> None:
    """Every field of every epoch, whatever the numbers; then none is left among the events."""
    events = [event(epoch) for epoch in epochs]
    rest, table = fold(events)
    assert rest == []
    assert [ordered(found) for found in unfold(table)] == [ordered(each) for each in events]


def ordered(event: Mapping[str, Any]) -> str:
    """An event as text: unlike NaN, it equals itself."""
    return to_json(dict(sorted(event.items())))


SOUND = event(Epoch(1, 2, 3, 0.5, 0.25, 0.125, 1.0, ((1, 2), (3, 4))))


@pytest.mark.parametrize(
    "odd",
    [
        {"epoch": 2**63},
        {"step": 1.5},
        {"loss": None},
        {"loss": "0.25"},
        {"loss": 2**64 + 1},
        {"confusion": [[1, 2], [3]]},
        {"confusion": [[1, 2]]},
        {"confusion": [[1], [2]]},
        {"confusion": [[-1]]},
        {"confusion": [[2**32]]},
        {"confusion": [[0.5]]},
        {"confusion": "no"},
        {"confusion": None},
        {"more": 1},
    ],
    ids=str,
)
def test_what_a_table_cannot_hold_stays_an_event(odd: dict[str, Any]) -> None:
    """One such epoch keeps all of them as lines: their order is theirs."""
    events = [SOUND, {**SOUND, **odd}, {"kind": "note", "step": 1}, {"kind": "scalar", "step": 0}]
    rest, table = fold(events)
    assert table == {}
    assert rest == [events[2], events[0], events[1]]


def test_an_epoch_without_a_field_stays_an_event() -> None:
    """Nothing is made up."""
    events = [{key: SOUND[key] for key in SOUND if key != "f1"}]
    assert fold(events) == (events, {})


def test_a_table_that_would_be_mostly_padding_is_not_made() -> None:
    """Ten thousand small matrices and a large one: lines are smaller."""
    large = {**SOUND, "confusion": [[0] * 100 for _ in range(100)]}
    events = [large, *[SOUND] * 10_000]
    assert fold(events) == (events, {})


def test_columns_of_different_lengths_are_refused() -> None:
    """A damaged table raises."""
    table = fold([SOUND, SOUND])[1]
    with pytest.raises(ValueError, match="different lengths"):
        unfold({**table, "loss": table["loss"][:1]})


@pytest.mark.parametrize(
    "line", ["", "[]", "{", '{"kind": 1, "step": 1}', '{"kind": "a"}', '{"kind": "a", "step": 1.0}']
)
def test_a_line_that_is_no_event_is_refused(line: str) -> None:
    """A kind and a step are what every event has."""
    with pytest.raises(ValueError, match=r".*"):
        parse_line(line)


def test_an_event_is_cleaned() -> None:
    """As the reader of a live file does it."""
    assert parse_line(to_json({"kind": "a", "step": 1, "text": "\x1b[1m"})) == {
        "kind": "a",
        "step": 1,
        "text": "?[1m",
    }


def test_fields_are_those_of_an_epoch() -> None:
    """A field that is added to `Epoch` has to be added to the table."""
    names = {field.name for field in dataclasses.fields(Epoch)}
    assert {key for key in fold([SOUND])[1] if key != "classes"} == names
