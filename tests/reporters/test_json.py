"""The answer as JSON: strict, complete, equal to the values."""

from __future__ import annotations

import io
import json
from typing import Any, NoReturn

from nanscope.reporters import COMPARISON_REPORTERS, REPORTERS
from nanscope.view import build_comparison, build_view
from tests.reporters.stories import diverged_pair, healthy_pair


def strict(text: str) -> Any:
    """Parsed as JSON proper: NaN and Infinity are refused."""

    def refuse(word: str) -> NoReturn:
        raise AssertionError(word)

    return json.loads(text, parse_constant=refuse)


def test_diagnosis_and_run_facts() -> None:
    """The diagnosis as it is, and the run under its own key."""
    run, diagnosis = diverged_pair()
    out = io.StringIO()
    REPORTERS["json"](build_view(run, diagnosis), out)
    answer = strict(out.getvalue())
    facts = answer.pop("run")
    assert answer == json.loads(json.dumps(diagnosis.to_dict()))
    assert (facts["name"], facts["steps"], facts["state"]) == ("runs/digits-bs1.h5", 1854, "finished")
    assert facts["config"]["batch_size"] == 1
    assert facts["epochs"][-1]["loss"] == "nan"


def test_no_control_character_reaches_the_stream() -> None:
    """Names are escaped as JSON does."""
    run, diagnosis = healthy_pair(name="a\x1b[2J\u202e层.h5")
    out = io.StringIO()
    REPORTERS["json"](build_view(run, diagnosis), out)
    assert out.getvalue().isascii()
    assert "\x1b" not in out.getvalue()
    assert strict(out.getvalue())["run"]["name"] == run.name


def test_comparison_keeps_the_order_and_the_numbers() -> None:
    """One entry per case with its own diagnosis."""
    out = io.StringIO()
    COMPARISON_REPORTERS["json"](build_comparison([healthy_pair(), diverged_pair()]), out)
    answer = strict(out.getvalue())
    assert [case["label"] for case in answer["cases"]] == ["bs=32", "bs=1"]
    assert [case["first_nonfinite"] for case in answer["cases"]] == [None, 1653]
    assert answer["cases"][1]["test"]["loss"] == "nan"
    assert answer["cases"][1]["diagnosis"]["verdict"] == "diverged"
