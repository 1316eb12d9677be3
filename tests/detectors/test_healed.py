"""NS103: non-finite, and no lasting harm."""

from __future__ import annotations

import numpy as np

from nanscope.detectors.first_nonfinite import first_nonfinite
from nanscope.detectors.healed import healed
from nanscope.values import Phase, Severity
from tests.builders import diverged_run, make_run

NAN, INF = np.nan, np.inf


def test_a_nan_that_is_gone_again() -> None:
    """Two episodes of a NaN loss with finite steps between and after: a warning, not a divergence."""
    bad = [1, NAN, 1, NAN, NAN, 1]
    run = make_run(outputs={"a": bad}, loss=bad)
    (found,) = healed(run)
    assert (found.step, found.severity) == (1, Severity.WARNING)
    assert (found.evidence["episodes"], found.evidence["steps"]) == (2, 3)
    assert not list(first_nonfinite(run))


def test_a_masked_nan_is_healed_even_at_the_end() -> None:
    """A NaN output that never reached loss or gradients, up to the last step."""
    run = make_run(
        outputs={"a": [1, NAN, NAN], "b": [1, 1, 1]}, grads={"a.weight": [1, 1, 1]}, loss=[1, 1, 1]
    )
    (found,) = healed(run)
    assert (found.severity, found.evidence["reached_loss_or_gradients"]) == (Severity.WARNING, False)
    assert "masked" in found.message
    assert not list(first_nonfinite(run))


def test_masked_infinities_are_a_note() -> None:
    """Infinities that appear now and then and harm nothing may be meant."""
    run = make_run(outputs={"a": [1, INF, 1], "b": [1, 1, 1]}, loss=[1, 1, 1])
    (found,) = healed(run)
    assert found.severity is Severity.NOTE


def test_a_scaler_that_skips_is_a_note() -> None:
    """Half-precision gradients that overflow in the first step are how a scaler finds its level."""
    run = make_run(outputs={"a": [1, 1, 1]}, grads={"a.weight": [INF, 1, 1]}, loss=[1, 1, 1], dtype="float16")
    (found,) = healed(run)
    assert (found.step, found.phase, found.severity) == (0, Phase.BACKWARD, Severity.NOTE)
    assert found.evidence["skipped_update"]


def test_a_nan_that_stays_is_not_healed() -> None:
    """Near miss: the divergence belongs to NS101."""
    assert not list(healed(diverged_run()))


def test_weights_at_a_cadence_stay_poisoned_between_measurements() -> None:
    """Near miss: a poisoned weight that is not measured at the next steps has not healed."""
    run = make_run(weights={"a.weight": [1, NAN, None, None]}, loss=[1, 1, 1, 1])
    assert not list(healed(run))
    (found,) = first_nonfinite(run)
    assert (found.step, found.phase) == (1, Phase.UPDATE)
