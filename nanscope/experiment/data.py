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
from sklearn.model_selection import train_test_split
from torch import Tensor

from nanscope.experiment.cases import Case
from nanscope.experiment.idx import CLASSES, read_idx_files

Stored = NDArray[np.uint8] | NDArray[np.float64]
Pixels = NDArray[np.float32]

SPLIT_SEED = 0
TEST_SHARE = 0.2


@dataclass(frozen=True)
class Dataset:
    """Images and their classes, split into a training and a test part.

    Attributes:
        train_x, test_x: float32, shape (samples, pixels).
        train_y, test_y: int64 class numbers, shape (samples,).
        classes: number of classes.
        standardised: whether the inputs have mean 0 and variance 1 over the training part.
        mean, std: what was subtracted from inputs in [0, 1], and what they were then divided by.
    """

    name: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int
    standardised: bool
    mean: float
    std: float

    @cached_property
    def label_counts(self) -> tuple[int, ...]:
        """Training samples of each class."""
        return tuple(torch.bincount(self.train_y.cpu(), minlength=self.classes).tolist())


@dataclass(frozen=True)
class _Images:
    """Grey images as they are stored, shape (samples, height, width), and class numbers, shape (samples,)."""

    train_x: Stored
    train_y: Stored
    test_x: Stored
    test_y: Stored
    white: float


def load_dataset(case: Case) -> Dataset:
    """The data set of a case, on the CPU.

    Raises:
        DatasetError: its files are not here and cannot be fetched, or cannot be read.
    """
    images = LOADERS[case.dataset](case.data_dir)
    train_x, test_x = _unit(images.train_x, images.white), _unit(images.test_x, images.white)
    mean, std = _moments(train_x) if case.standardise else (0.0, 1.0)
    return Dataset(
        name=case.dataset,
        train_x=_scaled(train_x, mean, std),
        train_y=torch.from_numpy(images.train_y.astype(np.int64)),
        test_x=_scaled(test_x, mean, std),
        test_y=torch.from_numpy(images.test_y.astype(np.int64)),
        classes=CLASSES,
        standardised=case.standardise,
        mean=mean,
        std=std,
    )


def _digits(_data_dir: Path) -> _Images:
    digits = load_digits()
    train_x, test_x, train_y, test_y = train_test_split(
        digits.images, digits.target, test_size=TEST_SHARE, random_state=SPLIT_SEED, stratify=digits.target
    )
    return _Images(train_x, train_y, test_x, test_y, white=16.0)


def _idx(name: str, data_dir: Path) -> _Images:
    return _Images(*read_idx_files(name, data_dir), white=255.0)


LOADERS: Mapping[str, Callable[[Path], _Images]] = {
    "digits": _digits,
    "mnist": partial(_idx, "mnist"),
    "fashion-mnist": partial(_idx, "fashion-mnist"),
}


def _unit(images: Stored, white: float) -> Pixels:
    """Images as rows of pixels in [0, 1]."""
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(white)


def _moments(x: Pixels) -> tuple[float, float]:
    """Mean and standard deviation over all pixels, as is usual for images; 1 in place of a deviation of 0."""
    return float(x.mean(dtype=np.float64)), float(x.std(dtype=np.float64)) or 1.0


def _scaled(x: Pixels, mean: float, std: float) -> Tensor:
    return torch.from_numpy((x - np.float32(mean)) / np.float32(std))
