"""NS102: since when the weights are poisoned."""

from __future__ import annotations

import numpy as np

from nanscope.detectors.echo import echo
from nanscope.values import Severity
from tests.builders import diverged_run, make_run

NAN = np.nan


def test_weights_poisoned_from_a_step_on() -> None:
    """The update of the birth's step poisons all three parameters; only the input stays finite."""
    (found,) = echo(diverged_run(birth=1440))
    assert (found.step, found.severity) == (1440, Severity.NOTE)
    assert found.evidence["poisoned"] == found.evidence["parameters"] == 3
    assert found.evidence["sites"] - found.evidence["nonfinite_sites"] == 1


def test_training_that_stopped_before_the_update_has_no_echo() -> None:
    """Near miss: a NaN loss that raised; the weights are finite."""
    run = make_run(outputs={"a": [1, 1, NAN]}, weights={"a.weight": [1, 1, 1]}, loss=[1, 1, NAN])
    assert not list(echo(run))


def test_one_of_two_parameters() -> None:
    """Poison that spreads to one parameter only is counted as one."""
    run = make_run(weights={"a.weight": [1, NAN, NAN], "b.weight": [1, 1, 1]}, loss=[1, 1, NAN])
    (found,) = echo(run)
    assert (found.step, found.evidence["poisoned"], found.evidence["parameters"]) == (1, 1, 2)
