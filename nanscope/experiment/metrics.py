"""Test metrics from a confusion matrix: what a classifier is worth once it has been counted.

A matrix has one row per true class and one column per predicted class; its entries count samples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


def confusion_matrix(truth: NDArray[Any], predicted: NDArray[Any], classes: int) -> Counts:
    """How often each true class was predicted as each class, shape (classes, classes).

    Args:
        truth: class numbers, shape (samples,), each within 0..classes-1.
        predicted: the same, of the predictions.
        classes: number of classes.
    """
    pairs = truth.astype(np.int64) * classes + predicted.astype(np.int64)
    return np.bincount(pairs, minlength=classes * classes).astype(np.int64).reshape(classes, classes)


def accuracy(confusion: Counts) -> float:
    """Share of samples on the diagonal; NaN without samples."""
    samples = int(confusion.sum())
    return int(np.trace(confusion)) / samples if samples else float("nan")


def macro_f1(confusion: Counts) -> float:
    """Unweighted mean of F1 = 2 TP / (2 TP + FP + FN) over the classes; NaN without samples.

    A class that is neither true nor predicted anywhere does not count, as in scikit-learn's
    `f1_score(average="macro")`. A class that is never hit has F1 = 0.
    """
    hits = np.diag(confusion)
    involved = confusion.sum(axis=0) + confusion.sum(axis=1)
    seen = involved > 0
    return float(np.mean(2 * hits[seen] / involved[seen])) if seen.any() else float("nan")
