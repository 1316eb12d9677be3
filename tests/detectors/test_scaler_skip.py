"""NS104: what a gradient scaler skipped, and that it is no divergence."""

from __future__ import annotations

import numpy as np
import pytest

from nanscope.detectors import detect
from nanscope.detectors.first_nonfinite import first_nonfinite
from nanscope.detectors.healed import healed
from nanscope.detectors.scaler_skip import scaler_skip
from nanscope.diagnosis import diagnose
from nanscope.run import Run
from nanscope.values import Finding, Kind, Severity, Verdict
from tests.builders import make_run
from tests.detectors.scaled import INF, scaled_run

NAN = np.nan


def found_in(run: Run) -> Finding:
    """The one finding."""
    (finding,) = scaler_skip(run)
    return finding


def test_the_search_for_the_level() -> None:
    """Skips at the start only: a note with counts and the scale, nothing else, and a healthy run."""
    run = scaled_run(3000, [0, 1, 2, 5])
    note = found_in(run)
    assert (note.step, note.severity) == (0, Severity.NOTE)
    assert note.evidence == {
        "skipped": 4,
        "steps": 3000,
        "before_settled": 4,
        "last_step": 5,
        "nonfinite_gradients": 4,
        "scale_first": 65536.0,
        "scale_lowest": 4096.0,
        "scale_last": 8192.0,
    }
    assert "4 of 3,000 steps while its scale had not found its level" in note.message
    assert detect(run) == (note,)
    answer = diagnose(run)
    assert answer.verdict is Verdict.HEALTHY
    assert [cause.id for cause in answer.causes] == ["loss-scale-overflow"]
    assert [remedy.id for remedy in answer.remedies] == ["none-needed"]


def test_a_skip_now_and_then() -> None:
    """Once in 2,000 steps is how a scaler works; early and late ones are told apart."""
    run = scaled_run(10_000, [0, 1, 2500, 5100, 9999])
    note = found_in(run)
    assert (note.evidence["skipped"], note.evidence["before_settled"]) == (5, 2)
    assert "2 of them before" in note.message
    assert detect(run) == (note,)
    assert diagnose(run).verdict is Verdict.HEALTHY


def test_the_only_steps_are_skipped() -> None:
    """A smoke test of five steps ends before the scale has found its level: no verdict."""
    run = scaled_run(5, range(5))
    assert detect(run) == (found_in(run),)
    assert diagnose(run).verdict is Verdict.HEALTHY


@pytest.mark.parametrize("rows", [1, 50, 1500])
def test_no_skip_no_note(rows: int) -> None:
    """Healthy: the scale is recorded, nothing was skipped; or there is no scaler at all."""
    assert not detect(scaled_run(rows, []))
    assert not list(scaler_skip(make_run(loss=[1.0] * rows)))


def test_a_share_of_several_optimizers_counts() -> None:
    """One of two optimizers skipped: told, but the non-finite gradient did go into an update."""
    run = scaled_run(200, [60], skipped=np.where(np.arange(200) == 60, 0.5, 0))
    assert found_in(run).evidence["skipped"] == 1
    assert [(finding.rule, finding.severity) for finding in detect(run)] == [
        ("NS103", Severity.WARNING),
        ("NS104", Severity.NOTE),
    ]


def test_a_flag_without_an_overflow() -> None:
    """A skip whose recorded gradients are finite is said to be one, and is no overflow by cause."""
    run = scaled_run(200, [60], grads={"fc1.weight": np.ones(200)}, grad_outputs={})
    assert found_in(run).evidence["nonfinite_gradients"] == 0
    assert not diagnose(run).causes


def test_gradients_that_were_not_skipped() -> None:
    """Near miss: infinite gradients up to the end that went into the weights are the divergence they are."""
    run = scaled_run(200, range(150, 200), skipped=np.zeros(200))
    (birth,) = first_nonfinite(run)
    assert birth.step == 150
    assert not list(scaler_skip(run))


def test_a_bad_batch_that_was_skipped() -> None:
    """NaN in forward and loss of a skipped step: a warning that says why it did no harm, at the end too."""
    for row in (60, 199):
        bad = np.where(np.arange(200) == row, NAN, 1.0)
        run = scaled_run(200, [row], outputs={"fc1": bad, "fc2": bad}, loss=bad)
        (finding,) = healed(run)
        assert (finding.step, finding.severity) == (row, Severity.WARNING)
        assert "the gradient scaler skipped the update" in finding.message
        assert not list(first_nonfinite(run))
        assert diagnose(run).verdict is Verdict.SUSPICIOUS


def test_a_bad_batch_at_the_end_without_a_scaler() -> None:
    """Near miss: the same without a skip is a divergence."""
    bad = np.where(np.arange(200) == 199, NAN, 1.0)
    assert diagnose(scaled_run(200, [], outputs={"fc1": bad}, loss=bad)).verdict is Verdict.DIVERGED


def test_poisoned_weights_behind_skips() -> None:
    """Near miss: all is skipped because the weights, which nobody looked at in time, are NaN."""
    bad = np.where(np.arange(200) >= 195, NAN, 1.0)
    weights = {"fc1.weight": [1.0, *[None] * 194, *[NAN] * 5]}
    event = {"kind": "state", "step": 195, "parameters": {"fc1.weight": [4, 0]}, "buffers": {}}
    run = scaled_run(200, range(195, 200), outputs={"fc1": bad}, loss=bad, weights=weights, events=[event])
    (birth,) = first_nonfinite(run)
    assert (birth.step, str(birth.site)) == (194, "fc1.weight")


def test_a_loss_that_stays_nan() -> None:
    """Near miss: a forward that overflows at every step is no matter of the scale, however it is skipped."""
    bad = np.where(np.arange(200) >= 150, NAN, 1.0)
    run = scaled_run(200, range(150, 200), outputs={"fc1": bad}, loss=bad)
    answer = diagnose(run)
    assert answer.verdict is Verdict.DIVERGED
    assert answer.origin is not None
    assert (answer.origin.step, str(answer.origin.site)) == (150, "fc1.output")
    assert "loss-scale-overflow" not in [cause.id for cause in answer.causes]


def test_a_mask_is_meant_though_the_first_step_is_skipped() -> None:
    """Infinities of an attention mask stay what they are when the scale overflows beside them."""
    stats = {(Kind.OUTPUT, "mask", "nan_count"): np.zeros(100)}
    outputs = {"mask": np.full(100, INF), "fc1": np.ones(100)}
    run = scaled_run(100, [0], outputs=outputs, stats=stats)
    assert detect(run) == (found_in(run),)
