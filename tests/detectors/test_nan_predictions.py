"""NS201: argmax of NaN is no prediction."""

from __future__ import annotations

import numpy as np

from nanscope.detectors.nan_predictions import nan_predictions
from nanscope.values import Kind
from tests.builders import CLASSES, diverged_run, healthy_run, make_run

NAN = np.nan


def test_class_zero_is_no_preference() -> None:
    """From the step after the birth on, every row of logits is NaN through and through."""
    (found,) = nan_predictions(diverged_run(rows=1500, birth=1440))
    assert (found.step, found.evidence["samples"], found.evidence["all_logits_nan"]) == (1441, 59, True)
    assert "index 0" in found.message


def test_partly_nan_rows_are_not_called_all_nan() -> None:
    """Near miss: rows that hold some NaN; argmax is the first NaN, not index 0."""
    run = make_run(
        outputs={"": [1, NAN, NAN]},
        loss=[1, NAN, NAN],
        samples=1,
        predicted=np.eye(3),
        predicted_nan=[0, 1, 1],
    )
    (found,) = nan_predictions(run)
    assert found.evidence["all_logits_nan"] is False
    assert "index 0" not in found.message


def test_rows_that_turn_all_nan_later_are_told_apart() -> None:
    """The first bad logits mix infinities and NaN, the later ones are NaN alone: both steps are named."""
    stats = {(Kind.OUTPUT, "", "nan_count"): [0, 2, 3, 3]}
    run = make_run(
        outputs={"": [1, NAN, NAN, NAN]},
        loss=[1, NAN, NAN, NAN],
        samples=1,
        predicted=np.ones((4, 3)),
        predicted_nan=[0, 1, 1, 1],
        stats=stats,
    )
    (found,) = nan_predictions(run)
    assert found.step == 1
    assert "nothing but NaN since step 2" in found.message
    assert found.evidence["all_logits_nan"] is True


def test_one_sound_row_of_the_batch_says_no() -> None:
    """Near miss: 31 of 32 rows are NaN, one still has a prediction."""
    run = make_run(loss=[1, NAN], samples=32, predicted=np.ones((2, CLASSES)), predicted_nan=[0, 31])
    assert not list(nan_predictions(run))


def test_class_zero_of_a_finite_model_is_a_prediction() -> None:
    """Near miss: a healthy model that predicts class 0 all the time."""
    zeros = np.eye(CLASSES)[np.zeros(1500, int)]
    assert not list(nan_predictions(healthy_run(1500, predicted=zeros)))
