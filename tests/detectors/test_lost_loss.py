"""NS309: a loss that left for good; and losses that are large, return, or began at nothing."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from nanscope.detectors.lost_loss import lost_loss
from nanscope.values import Severity
from tests.builders import make_run

ROWS = 100
BLOWN = np.array([3.9] + [1.2e24] * (ROWS - 1))


def test_a_loss_that_left_in_one_step() -> None:
    """It jumped with the first update, and is finite to the end."""
    (found,) = lost_loss(make_run(loss=BLOWN))
    assert (found.rule, found.severity, found.step) == ("NS309", Severity.ERROR, 1)
    assert found.evidence["first"] == pytest.approx(3.9)


def test_the_step_is_the_last_departure() -> None:
    """It came back once before."""
    loss = np.where((np.arange(ROWS) < 40) & (np.arange(ROWS) != 20), 2.3, 1e6)
    (found,) = lost_loss(make_run(loss=loss))
    assert found.step == 40


@pytest.mark.parametrize(
    "loss",
    [
        np.linspace(1.0, 9_000.0, ROWS),  # grew, but not that far
        np.where(np.arange(ROWS) == ROWS - 5, 2.3, BLOWN),  # came back near the end
        np.concatenate(([1e-9], np.full(ROWS - 1, 0.5))),  # a term that begins at zero
        np.full(ROWS, 1e12),  # large from the first
        np.where(np.arange(ROWS) < ROWS // 2, BLOWN, np.nan),  # not finite: told by others
        BLOWN[:15],  # too short to say that it never came back
    ],
)
def test_near_misses(loss: NDArray[np.float64]) -> None:
    """Not one of them has left for good."""
    assert not list(lost_loss(make_run(loss=loss)))
