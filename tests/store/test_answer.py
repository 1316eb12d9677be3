"""The answer of a child process is data: what is not as it should be is no answer."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanscope.store.guard.answer import Answer, pack, unpack
from nanscope.store.guard.evidence import Evidence
from nanscope.store.inventory import Inventory, Stored

lengths = st.integers(0, 2**62)
shapes = st.lists(lengths, max_size=4).map(tuple)
arrays = st.builds(
    Stored,
    shape=shapes,
    dtype=st.sampled_from(["<f4", ">i8", "<u1"]),
    offset=st.none() | lengths,
    chunks=st.none() | shapes,
    filters=st.sampled_from([(), ("shuffle", "deflate")]),
)
inventories = st.builds(
    Inventory,
    attributes=st.dictionaries(st.text(), st.text() | st.integers() | st.floats(allow_nan=False)),
    texts=st.dictionaries(st.text(), st.lists(st.text())),
    arrays=st.dictionaries(st.text(), arrays),
)
extents = st.lists(st.tuples(st.integers(0, 2**61), st.integers(2**61 + 1, 2**62))).map(tuple)
proofs = st.builds(Evidence, extents=extents, digest=st.text())
SOUND = Answer(
    Inventory({"a": 1}, {"t": ["x"]}, {"b": Stored((2,), "<f4", 8)}), "", Evidence(((0, 8),), "ab")
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(inventory=inventories, proof=proofs)
def test_what_is_said_is_what_is_heard(inventory: Inventory, proof: Evidence) -> None:
    """Any inventory, with names and texts of any characters."""
    answer = Answer(inventory, evidence=proof)
    assert unpack(pack(answer)) == answer


def test_a_reason_is_cleaned_and_cut() -> None:
    """It goes to the screen."""
    found = unpack(pack(Answer(reason="\x1b[31m" + "x" * 1000)))
    assert found.reason == "?[31m" + "x" * 395


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("inventory",), 3),
        (("inventory", "attributes"), []),
        (("inventory", "attributes", "a"), [1]),
        (("inventory", "texts", "t"), "x"),
        (("inventory", "texts", "t"), [1]),
        (("inventory", "arrays", "b"), {}),
        (("inventory", "arrays", "b", "shape"), [-1]),
        (("inventory", "arrays", "b", "shape"), [2**63]),
        (("inventory", "arrays", "b", "shape"), [1.0]),
        (("inventory", "arrays", "b", "shape"), [True]),
        (("inventory", "arrays", "b", "dtype"), "O"),
        (("inventory", "arrays", "b", "dtype"), "<f4,<f4"),
        (("inventory", "arrays", "b", "offset"), "8"),
        (("inventory", "arrays", "b", "offset"), -8),
        (("inventory", "arrays", "b", "chunks"), 4),
        (("inventory", "arrays", "b", "filters"), ["lzf"]),
        (("evidence",), []),
        (("evidence", "extents"), [[0]]),
        (("evidence", "extents"), [[0, -1]]),
        (("evidence", "extents"), [[8, 8]]),
        (("evidence", "digest"), 1),
    ],
)
def test_an_answer_with_a_wrong_part_is_none(path: tuple[str, ...], value: object) -> None:
    """Wrong types, negative and huge numbers, types that numpy would take for objects."""
    answer = json.loads(pack(SOUND))
    assert unpack(json.dumps(answer).encode()) == SOUND
    place = answer
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    with pytest.raises(ValueError, match="no "):
        unpack(json.dumps(answer).encode())


@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.binary() | st.recursive(st.none() | st.text(), st.lists).map(lambda v: json.dumps(v).encode()))
def test_anything_else_is_none(data: bytes) -> None:
    """Nothing but `ValueError` comes of it."""
    with pytest.raises(ValueError):  # noqa: PT011 - json's words differ between Pythons
        unpack(data)
