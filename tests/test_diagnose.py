"""The answer: verdict, origin, causes, trail, remedies, unknowns; wording never exceeds evidence."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from nanscope.causes import CATALOGUE, REMEDIES
from nanscope.diagnosis import diagnose
from nanscope.values import Diagnosis, Phase, Verdict
from tests.builders import collapsed_run, diverged_run, healthy_run, make_run

NAN, INF = np.nan, np.inf
ROWS = 200
BIRTH = 150


def until(value: float, healthy: Any = 1.0) -> np.ndarray:
    """Healthy up to the birth, then the value."""
    return np.where(np.arange(ROWS) < BIRTH, healthy, value)


def broken(**parts: Any) -> Diagnosis:
    """A run that is NaN from step 150 on in loss, gradients and weights, without any growth before."""
    event = {"kind": "state", "step": BIRTH, "parameters": {}, "buffers": {}}
    ordinary: dict[str, Any] = {
        "inputs": np.ones(ROWS),
        "outputs": {"fc": until(NAN)},
        "grad_outputs": {"fc": until(NAN)},
        "weights": {"fc.weight": until(NAN)},
        "grads": {"fc.weight": until(NAN)},
        "loss": until(NAN),
        "lr": 0.1,
        "events": [event],
    }
    return diagnose(make_run(**(ordinary | parts)))


def names(diagnosis: Diagnosis) -> list[str]:
    """Ids of the causes by rank."""
    return [cause.id for cause in diagnosis.causes]


def test_a_healthy_run() -> None:
    """Nothing found, nothing claimed, nothing to try."""
    answer = diagnose(healthy_run())
    assert answer.verdict is Verdict.HEALTHY
    assert (answer.origin, answer.causes, answer.findings, answer.remedies, answer.trail) == (
        None,
        (),
        (),
        (),
        (),
    )
    assert "1500" in answer.summary


def test_the_real_story() -> None:
    """Learning-rate divergence into an overflow; class 0 explained; log(0) excluded; the trail in order."""
    answer = diagnose(diverged_run(birth=1440))
    assert answer.verdict is Verdict.DIVERGED
    assert answer.origin is not None
    assert (answer.origin.step, answer.origin.phase, answer.origin.module) == (
        1440,
        Phase.FORWARD,
        "final_layer",
    )
    assert (answer.origin.op, answer.origin.location, answer.origin.operands) == (None, None, ())
    assert names(answer) == ["learning-rate-divergence"]
    assert any("log(0)" in line and "excluded" in line for line in answer.causes[0].evidence)
    assert "index 0" in answer.summary
    told = "\n".join(link.what for link in answer.trail)
    order = [
        "begins to grow",
        "weight is",
        "still finite",
        "10 inf",
        "loss is nan",
        "gradients of 3 of 3",
    ]
    order += ["3 parameters", "index 0", "accuracy is the share of class 0"]
    places = [told.index(part) for part in order]
    assert places == sorted(places)
    assert [link.step for link in answer.trail] == sorted(link.step for link in answer.trail)


def test_a_collapse_says_what_it_is_not() -> None:
    """Finite loss and a dead layer: collapsed, no origin, and its cause is left open."""
    answer = diagnose(collapsed_run())
    assert answer.verdict is Verdict.COLLAPSED
    assert answer.origin is None
    assert answer.causes == ()
    assert "finite" in answer.summary
    assert any("lr" in remedy.id or "learning" in remedy.id for remedy in answer.remedies)
    assert answer.unknowns


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"inputs": until(NAN)}, ["bad-input"]),
        ({"lr": until(1e30, 0.1)}, ["bad-learning-rate"]),
        ({"lr": until(INF, 0.1)}, ["bad-learning-rate"]),
        ({"outputs": {"fc": np.ones(ROWS)}}, []),
        (
            {"outputs": {"fc": np.ones(ROWS)}, "loss": np.ones(ROWS), "grad_outputs": {"fc": until(INF)}},
            ["gradient-explosion"],
        ),
        ({"outputs": {"fc": np.ones(ROWS)}, "loss": np.ones(ROWS)}, []),
        ({}, []),
    ],
    ids=["input", "absurd-lr", "infinite-lr", "loss-only", "infinite-gradient", "nan-gradient", "nan-output"],
)
def test_a_cause_only_where_the_rows_support_it(parts: dict[str, Any], expected: list[str]) -> None:
    """Each planted origin, and those that module-level rows cannot tell: no cause, but an unknown."""
    answer = broken(**parts)
    assert answer.verdict is Verdict.DIVERGED
    assert names(answer) == expected
    assert answer.origin is not None
    if not expected:
        assert any("operation" in line for line in answer.unknowns)


def test_a_finite_gradient_and_a_poisoned_update() -> None:
    """Weights that turn NaN by an update whose gradients were finite."""
    late = np.where(np.arange(ROWS) <= BIRTH, 1.0, NAN)
    parts = {name: {"fc": late} for name in ("outputs", "grad_outputs")} | {"grads": {"fc.weight": late}}
    answer = broken(**parts, loss=late)
    assert names(answer) == ["optimizer-update"]
    assert answer.origin is not None
    assert (answer.origin.step, answer.origin.phase) == (BIRTH, Phase.UPDATE)


@pytest.mark.parametrize(
    ("state", "expected", "module"),
    [
        ({"parameters": {"fc.weight": [1, 0]}, "buffers": {}}, "bad-parameter", "fc"),
        ({"parameters": {}, "buffers": {"fc.running_var": [0, 1]}}, "bad-buffer", "fc"),
    ],
)
def test_bad_from_the_start(state: dict[str, Any], expected: str, module: str) -> None:
    """A parameter or a buffer that was bad before step 0."""
    run = make_run(outputs={"fc": [NAN] * 3}, loss=[NAN] * 3, events=[{"kind": "state", "step": 0} | state])
    answer = diagnose(run)
    assert names(answer) == [expected]
    assert answer.origin is not None
    assert (answer.origin.phase, answer.origin.module) == (Phase.INIT, module)


def test_growth_of_outputs_alone_is_not_the_learning_rate() -> None:
    """Weights measured up to the end that stay in their band exclude the learning-rate divergence."""
    grown = np.where(np.arange(ROWS) < BIRTH, 2.0 ** np.maximum(0, np.arange(ROWS) - 100.0), INF)
    answer = broken(outputs={"fc": grown})
    assert names(answer)[0] == "activation-explosion"
    assert "learning-rate-divergence" not in names(answer)


def test_a_loss_that_was_born_bad_does_not_exclude_log_of_zero() -> None:
    """Near miss: outputs finite, loss NaN; log(0) is possible and nothing is said of it."""
    answer = broken(outputs={"fc": np.ones(ROWS)})
    assert not any("log(0)" in line for cause in answer.causes for line in cause.evidence)
    assert any("targets" in line for line in answer.unknowns)


def test_healed_is_suspicious_not_diverged() -> None:
    """A NaN for one step."""
    loss = np.where(np.arange(ROWS) == BIRTH, NAN, 1.0)
    answer = diagnose(make_run(outputs={"fc": loss}, loss=loss))
    assert (answer.verdict, answer.origin) == (Verdict.SUSPICIOUS, None)


def test_a_scaler_at_work_is_healthy_and_explained() -> None:
    """Half-precision gradients overflow once: benign."""
    run = make_run(outputs={"a": [1, 1, 1]}, grads={"a.weight": [INF, 1, 1]}, loss=[1, 1, 1], dtype="float16")
    answer = diagnose(run)
    assert answer.verdict is Verdict.HEALTHY
    assert names(answer) == ["loss-scale-overflow"]


def test_remedies_carry_the_runs_numbers_and_drop_the_pointless() -> None:
    """A tenth of the lr is a first try; a larger batch only where it is small; nothing is promised."""
    small = diagnose(diverged_run())
    changes = {remedy.id: remedy.change for remedy in small.remedies}
    assert "it was 0.1; 0.01 is a first try" in changes["lower-learning-rate"]
    assert "larger-batch" in changes
    assert {remedy.outcome for remedy in small.remedies} == {"untried"}
    run = diverged_run()
    header = dataclasses.replace(run.header, config={"batch_size": 1024, "standardised": True})
    large = {remedy.id for remedy in diagnose(dataclasses.replace(run, header=header)).remedies}
    assert not {"larger-batch", "standardise-inputs"} & large


def test_every_named_cause_and_remedy_is_in_the_catalogue() -> None:
    """Ids are public names."""
    for run in (diverged_run(), collapsed_run()):
        answer = diagnose(run)
        assert {cause.id for cause in answer.causes} <= set(CATALOGUE)
        assert {remedy.id for remedy in answer.remedies} <= set(REMEDIES)
        assert [cause.rank for cause in answer.causes] == list(range(1, len(answer.causes) + 1))


def test_json_is_plain() -> None:
    """`to_dict` is strict JSON, without NaN literals."""
    for run in (healthy_run(), diverged_run(), collapsed_run()):
        text = json.dumps(diagnose(run).to_dict(), allow_nan=False)
        assert json.loads(text)["schema"] == 1


def test_what_the_recorder_could_not_do_is_unknown() -> None:
    """A recorder that stepped aside, a killed run and lost rows are said; an exception is in the trail."""
    events = (
        {"kind": "recorder-failed", "step": 7, "message": "boom"},
        {"kind": "error", "step": 9, "message": "oom"},
    )
    answer = diagnose(diverged_run(state="killed", events=events, lost=("2 rows were lost",)))
    told = "\n".join(answer.unknowns)
    assert all(part in told for part in ("stepped aside", "boom", "did not close", "2 rows were lost"))
    assert any("oom" in link.what for link in answer.trail)


def test_no_rows_no_claim() -> None:
    """An empty run is not called healthy."""
    answer = diagnose(make_run())
    assert answer.verdict is Verdict.SUSPICIOUS
    assert "no step" in answer.summary
