"""Events are believed only when they are what their kind says."""

from __future__ import annotations

from typing import Any

import pytest

from nanscope.store.events import epoch_of, is_event
from nanscope.values import Epoch

EPOCH = {"kind": "epoch", **Epoch(1, 10, 10, 0.5, 2.3, 0.1, 0.02, ((3, 1), (0, 4))).to_dict()}
EPOCH["confusion"] = [[3, 1], [0, 4]]
STATE = {"kind": "state", "step": 3, "parameters": {"fc.weight": [2, 0]}, "buffers": {}}


@pytest.mark.parametrize(
    "event",
    [
        EPOCH,
        {**EPOCH, "loss": float("nan"), "f1": -5, "confusion": []},
        STATE,
        {"kind": "scalar", "step": 0, "name": "x", "column": 4},
        {"kind": "error", "step": -1, "message": "ValueError: x"},
        {"kind": "of a later version", "step": 5, "what": [{}]},
    ],
)
def test_sound_events(event: dict[str, Any]) -> None:
    """As the recorder writes them, and those of kinds that are not known yet."""
    assert is_event(event)


@pytest.mark.parametrize(
    "event",
    [
        None,
        [],
        {"step": 1},
        {"kind": "x"},
        {"kind": ["x"], "step": 1},
        {"kind": "x", "step": 1.0},
        {"kind": "x", "step": True},
        {"kind": "x", "step": 2**70},
        {"kind": "x", "step": -2},
        {"kind": "error", "step": 1},
        {"kind": "error", "step": 1, "message": 5},
        {"kind": "recorder-failed", "step": 1, "message": None},
        {"kind": "scalar", "step": 1, "name": "x", "column": True},
        {"kind": "scalar", "step": 1, "name": 5, "column": 1},
        {**STATE, "parameters": []},
        {**STATE, "buffers": {"x": [1]}},
        {**STATE, "buffers": {"x": ["1", "2"]}},
        {**EPOCH, "epoch": "1"},
        {**EPOCH, "loss": None},
        {**EPOCH, "loss": 10**400},
        {**EPOCH, "accuracy": [0.5]},
        {**EPOCH, "confusion": [[1, 2], [3]]},
        {**EPOCH, "confusion": [["a"]]},
        {**EPOCH, "confusion": [[-1]]},
        {**EPOCH, "confusion": None},
    ],
)
def test_unsound_events(event: Any) -> None:
    """Missing fields, wrong types, numbers that nothing holds."""
    assert not is_event(event)


def test_an_epoch_comes_back() -> None:
    """As it was, also with a field of a later version; with one less it is none."""
    assert epoch_of(EPOCH) == Epoch(1, 10, 10, 0.5, 2.3, 0.1, 0.02, ((3, 1), (0, 4)))
    assert epoch_of({**EPOCH, "extra": 1}) == epoch_of(EPOCH)
    assert epoch_of({name: value for name, value in EPOCH.items() if name != "f1"}) is None
    assert epoch_of({**EPOCH, "loss": "2.3"}) is None
