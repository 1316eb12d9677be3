"""Data sets as four tensors in memory: the bundled digits, MNIST and Fashion-MNIST."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.utils import shuffle
from torch import Tensor

from nanscope.experiment.cases import Case
from nanscope.experiment.idx import CLASSES, read_idx_files

Stored = NDArray[np.uint8] | NDArray[np.float64]
Pixels = NDArray[np.float32]

SPLIT_SEED = 0
TRAIN_SHARE = 0.8


@dataclass(frozen=True)
class Dataset:
    """Images and their classes, split into a training and a test part.

    Attributes:
        train_x, test_x: float32, shape (samples, pixels).
        train_y, test_y: int64 class numbers, shape (samples,).
        classes: number of classes.
        standardised: whether the inputs have mean 0 and variance 1 over the training part (each feature of
            the digits; all pixels together for photographs of 28x28, whose rims are all but constant).
    """

    name: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int
    standardised: bool

    @cached_property
    def label_counts(self) -> tuple[int, ...]:
        """Training samples of each class."""
        return tuple(torch.bincount(self.train_y.cpu(), minlength=self.classes).tolist())


@dataclass(frozen=True)
class _Images:
    """Grey images as they are stored, shape (samples, height, width), and class numbers, shape (samples,).

    `white` is their largest possible value; `axis` is what is averaged over to standardise them.
    """

    train_x: Stored
    train_y: Stored
    test_x: Stored
    test_y: Stored
    white: float
    axis: int | None


def load_dataset(case: Case) -> Dataset:
    """The data set of a case, on the CPU.

    Raises:
        DatasetError: its files are not here and cannot be fetched, or cannot be read.
    """
    images = LOADERS[case.dataset](case.data_dir)
    train_x, test_x = _unit(images.train_x, images.white), _unit(images.test_x, images.white)
    if case.standardise:
        train_x, test_x = _standardised(train_x, test_x, images.axis)
    return Dataset(
        name=case.dataset,
        train_x=torch.from_numpy(train_x),
        train_y=torch.from_numpy(images.train_y.astype(np.int64)),
        test_x=torch.from_numpy(test_x),
        test_y=torch.from_numpy(images.test_y.astype(np.int64)),
        classes=CLASSES,
        standardised=case.standardise,
    )


def _digits(_data_dir: Path) -> _Images:
    digits = load_digits()
    x, y = shuffle(digits.images, digits.target, random_state=SPLIT_SEED)
    split = int(len(x) * TRAIN_SHARE)
    return _Images(x[:split], y[:split], x[split:], y[split:], white=16.0, axis=0)


def _idx(name: str, data_dir: Path) -> _Images:
    return _Images(*read_idx_files(name, data_dir), white=255.0, axis=None)


LOADERS: Mapping[str, Callable[[Path], _Images]] = {
    "digits": _digits,
    "mnist": partial(_idx, "mnist"),
    "fashion-mnist": partial(_idx, "fashion-mnist"),
}


def _unit(images: Stored, white: float) -> Pixels:
    """Images as rows of pixels in [0, 1]."""
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(white)


def _standardised(train: Pixels, test: Pixels, axis: int | None) -> tuple[Pixels, Pixels]:
    """Both parts moved and scaled by the moments of the training part; what is constant is only moved."""
    mean, std = train.mean(axis, dtype=np.float64), train.std(axis, dtype=np.float64)
    std = np.where(std == 0, 1.0, std)
    return ((train - mean) / std).astype(np.float32), ((test - mean) / std).astype(np.float32)
