"""Metrics against scikit-learn, and the figures of the collapse that they must give."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as oracle

from nanscope.experiment.metrics import accuracy, confusion_matrix, macro_f1

CLASSES = 4
LABELS = st.integers(0, CLASSES - 1)
PAIRS = st.lists(st.tuples(LABELS, LABELS), min_size=1, max_size=40)


@given(pairs=PAIRS)
def test_metrics_equal_those_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    """Matrix, accuracy and macro F1 agree with an independent implementation, absent classes included."""
    truth, predicted = np.array(pairs).T
    confusion = confusion_matrix(truth, predicted, CLASSES)
    expected = oracle.confusion_matrix(truth, predicted, labels=range(CLASSES))
    assert np.array_equal(confusion, expected)
    assert accuracy(confusion) == pytest.approx(oracle.accuracy_score(truth, predicted))
    expected_f1 = oracle.f1_score(truth, predicted, average="macro", zero_division=0)
    assert macro_f1(confusion) == pytest.approx(expected_f1)


def test_rows_are_true_classes() -> None:
    """Two samples of class 1 predicted as 0 stand in row 1, column 0."""
    assert confusion_matrix(np.array([1, 1]), np.array([0, 0]), 2).tolist() == [[0, 0], [2, 0]]


def test_class_0_everywhere_on_mnist() -> None:
    """The blog post's ending: 980 zeros of 10,000 give accuracy 0.098 and macro F1 0.018."""
    truth = np.repeat(np.arange(10), [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009])
    confusion = confusion_matrix(truth, np.zeros_like(truth), 10)
    assert accuracy(confusion) == pytest.approx(0.098)
    assert macro_f1(confusion) == pytest.approx(2 * 0.098 / 1.098 / 10)
    assert round(macro_f1(confusion), 3) == 0.018


def test_nothing_tested_is_nan() -> None:
    """Without samples there is no accuracy and no F1, rather than a zero that looks measured."""
    empty = np.zeros((3, 3), np.int64)
    assert math.isnan(accuracy(empty))
    assert math.isnan(macro_f1(empty))
