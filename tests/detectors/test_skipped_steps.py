"""NS402: a training that stands still."""

from __future__ import annotations

import numpy as np
import pytest

from nanscope.detectors.skipped_steps import skipped_steps
from nanscope.diagnosis import diagnose
from nanscope.run import Run
from nanscope.values import Finding, Severity, Verdict
from tests.builders import healthy_run
from tests.detectors.scaled import scaled_run


def found_in(run: Run) -> Finding:
    """The one finding."""
    (finding,) = skipped_steps(run)
    return finding


def test_every_update_from_a_step_on() -> None:
    """An error with the step, the number of updates before and after, and what the gradients were."""
    run = scaled_run(300, [0, *range(250, 300)])
    finding = found_in(run)
    assert (finding.step, finding.severity) == (250, Severity.ERROR)
    assert finding.evidence == {
        "skipped": 50,
        "nonfinite_gradients": 50,
        "scale": 32768.0 * 2.0**-49,
        "updates_made": 249,
    }
    answer = diagnose(run)
    assert answer.verdict is Verdict.SUSPICIOUS
    assert "stands still since step 250" in answer.summary
    assert "loss-scale-overflow" not in [cause.id for cause in answer.causes]


def test_although_the_gradients_are_finite() -> None:
    """The flag was raised wrongly, or by parameters that are not recorded: nothing else would show it."""
    ones = {"fc1.weight": np.ones(300), "fc2.weight": np.ones(300)}
    run = scaled_run(300, range(100, 300), grads=ones, grad_outputs={}, loss_scale=np.full(300, 1024.0))
    finding = found_in(run)
    assert (finding.step, finding.evidence["nonfinite_gradients"]) == (100, 0)
    assert "every recorded gradient was finite" in finding.message


def test_from_the_first_step_on() -> None:
    """Below a scale of 1, or with a scale that does not move, it is no search for a level any more."""
    assert found_in(scaled_run(30, range(30))).step == 0
    assert found_in(scaled_run(30, range(30), loss_scale=np.full(30, 65536.0))).step == 0


def test_one_of_two_optimizers() -> None:
    """Half of the updates, always: a warning that says so."""
    finding = found_in(scaled_run(200, [], skipped=np.where(np.arange(200) >= 100, 0.5, 0)))
    assert (finding.step, finding.severity) == (100, Severity.WARNING)
    assert "one optimizer or more" in finding.message


NEAR: dict[str, Run] = {
    "it goes on again": scaled_run(300, range(200, 299)),
    "nine at the end": scaled_run(300, range(291, 300)),
    "only the search for a level": scaled_run(16, range(16)),
    "the search from high up": scaled_run(30, range(30), init=2.0**32),
    "without a scaler at the end": scaled_run(300, [], skipped=[1.0] * 250 + [None] * 50),
    "no skip": scaled_run(300, []),
    "no scaler": healthy_run(300),
}


@pytest.mark.parametrize("run", NEAR.values(), ids=NEAR)
def test_near_misses(run: Run) -> None:
    """Trainings that move, or may still begin to."""
    assert not list(skipped_steps(run))
