"""NS204: one class rules the labels."""

from __future__ import annotations

import numpy as np
import pytest

from nanscope.detectors.label_imbalance import label_imbalance
from nanscope.values import Severity
from tests.builders import CLASSES, collapsed_run, healthy_run

ROWS = 3000
SKEWED = [20] * 9 + [820]


def predictions(share: float) -> np.ndarray:
    """Class 9 in this share of the steps, class 0 otherwise."""
    picks = np.where(np.random.default_rng(0).random(ROWS) < share, 9, 0)
    return np.eye(CLASSES)[picks]


def test_predictions_follow_the_labels() -> None:
    """82 % of the labels and 84 % of the predictions are class 9: a note."""
    (found,) = label_imbalance(
        healthy_run(ROWS, config={"label_counts": SKEWED}, predicted=predictions(0.84))
    )
    assert (found.severity, found.evidence["class"]) == (Severity.NOTE, 9)
    assert found.evidence["label_share"] == pytest.approx(0.82)
    assert found.evidence["predicted_share"] == pytest.approx(0.84, abs=0.03)


def test_the_ruling_class_is_not_predicted() -> None:
    """Near miss: skewed labels, but the predictions are another class."""
    assert not list(
        label_imbalance(healthy_run(ROWS, config={"label_counts": SKEWED}, predicted=predictions(0.1)))
    )


def test_balanced_labels() -> None:
    """Near miss: one class is predicted although the labels are even; a collapse, no imbalance."""
    assert not list(label_imbalance(healthy_run(ROWS, predicted=predictions(1.0))))
    assert not list(label_imbalance(collapsed_run()))
