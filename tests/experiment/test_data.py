"""The bundled digits: complete, reproducible, scaled by what the training part alone tells."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits

from nanscope.experiment.cases import Case
from nanscope.experiment.data import load_dataset


def test_digits_are_split_80_to_20() -> None:
    """All 1,797 images are there once."""
    dataset = load_dataset(Case(standardise=False))
    assert dataset.train_x.shape == (1437, 64)
    assert dataset.test_x.shape == (360, 64)
    images = torch.cat([dataset.train_x, dataset.test_x]).numpy() * 16
    stored = load_digits().data
    assert np.array_equal(np.unique(images, axis=0), np.unique(stored.astype(np.float32), axis=0))
    assert sum(dataset.label_counts) == 1437


def test_images_keep_their_labels() -> None:
    """Each training image is found among the stored ones with the label it had there."""
    dataset = load_dataset(Case(standardise=False))
    stored = load_digits()
    labels = {tuple(image): label for image, label in zip(stored.data, stored.target, strict=True)}
    for image, label in zip(dataset.train_x[:50].tolist(), dataset.train_y[:50].tolist(), strict=True):
        assert labels[tuple(16 * pixel for pixel in image)] == label


def test_each_feature_is_standardised_by_the_training_part_only() -> None:
    """Mean 0 and variance 1 over the training part; the test part is moved by the same numbers."""
    dataset, plain = load_dataset(Case()), load_dataset(Case(standardise=False))
    raw, x = plain.train_x.double().numpy(), dataset.train_x.double().numpy()
    varies = raw.std(axis=0) > 0
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(x.std(axis=0), varies, atol=1e-5)
    expected = (plain.test_x.double().numpy() - raw.mean(axis=0)) / np.where(varies, raw.std(axis=0), 1)
    np.testing.assert_allclose(dataset.test_x.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_not_standardised_lies_in_the_unit_interval() -> None:
    """Without standardising, black is 0 and white is 1."""
    dataset = load_dataset(Case(standardise=False))
    assert (float(dataset.train_x.min()), float(dataset.train_x.max())) == (0, 1)
    assert not dataset.standardised


def test_same_split_every_time() -> None:
    """The split has a seed of its own: neither the case's seed nor the program's moves it."""
    first = load_dataset(Case(seed=0))
    torch.rand(1)
    second = load_dataset(Case(seed=1))
    assert torch.equal(first.train_x, second.train_x)
    assert torch.equal(first.test_y, second.test_y)
    assert (first.train_x.dtype, first.train_y.dtype) == (torch.float32, torch.int64)
