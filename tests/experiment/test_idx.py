"""MNIST and Fashion-MNIST: found where they lie, fetched where they don't, refused when damaged."""

from __future__ import annotations

import gzip
import socket
import struct
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from nanscope.errors import DatasetError
from nanscope.experiment import idx
from nanscope.experiment.cases import Case
from nanscope.experiment.data import load_dataset
from nanscope.experiment.idx import read_idx_files

from .idx_files import idx_bytes, tiny_images, write_idx_files

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.fixture(autouse=True)
def _no_system_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is installed on the machine decides no test."""
    monkeypatch.setattr(idx, "SYSTEM_FOLDERS", {})


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST/raw"), ("fashion-mnist", "FashionMNIST/raw")])
def test_files_are_read_from_torchvisions_layout(
    tmp_path: Path, name: str, folder: str, zipped: bool
) -> None:
    """Values and order are what was written, plain or gzipped."""
    written = write_idx_files(tmp_path / folder, zipped=zipped)
    for read, expected in zip(read_idx_files(name, tmp_path), written, strict=True):
        np.testing.assert_array_equal(read, expected)


def test_reading_agrees_with_torchvision(tmp_path: Path) -> None:
    """The reader of torchvision gives the same images and labels."""
    write_idx_files(tmp_path / "MNIST" / "raw")
    ours = read_idx_files("mnist", tmp_path)
    theirs = datasets.MNIST(tmp_path, train=True)
    np.testing.assert_array_equal(ours[0], theirs.data.numpy())
    np.testing.assert_array_equal(ours[1], theirs.targets.numpy())


def test_files_may_lie_in_the_folder_itself(tmp_path: Path) -> None:
    """A folder with nothing but the four files is enough."""
    written = write_idx_files(tmp_path)
    np.testing.assert_array_equal(read_idx_files("mnist", tmp_path)[0], written[0])


def test_system_folder_is_the_last_resort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of the distribution are used where the data folder has none."""
    written = write_idx_files(tmp_path / "system", zipped=True)
    monkeypatch.setattr(idx, "SYSTEM_FOLDERS", {"fashion-mnist": tmp_path / "system"})
    np.testing.assert_array_equal(read_idx_files("fashion-mnist", tmp_path / "none")[2], written[2])


def test_dataset_of_a_case(tmp_path: Path) -> None:
    """Images become rows of pixels, standardised over the training part; labels become int64."""
    written = write_idx_files(tmp_path / "MNIST" / "raw")
    dataset = load_dataset(Case(dataset="mnist", data_dir=tmp_path))
    pixels = written[0].reshape(30, 12).astype(np.float64)
    expected = (pixels - pixels.mean()) / pixels.std()
    np.testing.assert_allclose(dataset.train_x.numpy(), expected, atol=1e-5)
    assert dataset.test_y.tolist() == written[3].tolist()
    assert dataset.test_x.shape == (10, 12)


def test_constant_images_stay_finite(tmp_path: Path) -> None:
    """A deviation of 0 divides nothing."""
    write_idx_files(tmp_path)
    (tmp_path / IMAGES).write_bytes(idx_bytes(np.full((30, 4, 3), 7, np.uint8)))
    dataset = load_dataset(Case(dataset="mnist", data_dir=tmp_path))
    assert dataset.train_x.abs().max() < 1e-6
    assert bool(dataset.test_x.isfinite().all())


DAMAGES = {
    "empty": (IMAGES, b""),
    "another format": (IMAGES, b"\x89PNG\r\n\x1a\n" * 40),
    "wrong type": (IMAGES, bytes([0, 0, 13, 3]) + struct.pack(">3I", 1, 1, 1) + bytes(4)),
    "labels for images": (IMAGES, idx_bytes(tiny_images(30, 1)[1])),
    "header cut": (IMAGES, idx_bytes(tiny_images(30, 1)[0])[:9]),
    "data cut": (IMAGES, idx_bytes(tiny_images(30, 1)[0])[:-1]),
    "data too long": (IMAGES, idx_bytes(tiny_images(30, 1)[0]) + b"\0"),
    "absurd size": (IMAGES, bytes([0, 0, 8, 3]) + b"\xff" * 12),
    "no image": (IMAGES, idx_bytes(np.zeros((0, 4, 3), np.uint8))),
    "fewer labels": (LABELS, idx_bytes(tiny_images(29, 1)[1])),
    "unknown class": (LABELS, idx_bytes(np.full(30, 10, np.uint8))),
    "other image size": (IMAGES, idx_bytes(np.zeros((30, 3, 3), np.uint8))),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    """Whatever is wrong with a file, the message names a file and what to do."""
    write_idx_files(tmp_path)
    name, content = DAMAGES[damage]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError) as caught:
        read_idx_files("mnist", tmp_path)
    assert str(tmp_path) in caught.value.message
    assert caught.value.hint
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"no gzip", gzip.compress(idx_bytes(tiny_images(30, 1)[0]))[:-20], b"\x1f\x8b" + b"\xff" * 40]
)
def test_damaged_gzip_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    """A download that broke off leaves one clear line, not a traceback."""
    write_idx_files(tmp_path, zipped=True)
    (tmp_path / f"{IMAGES}.gz").write_bytes(content)
    with pytest.raises(DatasetError, match="cannot be used"):
        read_idx_files("mnist", tmp_path)


def test_missing_and_offline_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without files and without a network the error says where to put them, at once."""

    def refused(*_: object, **__: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    with pytest.raises(DatasetError) as caught:
        read_idx_files("mnist", tmp_path)
    assert "Network is unreachable" in caught.value.message
    assert str(tmp_path / "MNIST" / "raw") in caught.value.hint
    assert "--data-dir" in caught.value.hint
    assert "\n" not in str(caught.value)


def test_download_is_given_little_time_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download runs under a time limit for each answer, which is taken back afterwards."""
    seen: list[float | None] = []

    def fetched(root: Path, *, download: bool) -> None:
        assert download
        seen.append(socket.getdefaulttimeout())
        write_idx_files(root / "MNIST" / "raw")

    monkeypatch.setattr(datasets, "MNIST", fetched)
    train_x, *_ = read_idx_files("mnist", tmp_path)
    assert len(train_x) == 30
    assert seen == [idx.PATIENCE]
    assert socket.getdefaulttimeout() is None


def test_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """A data folder that is a file cannot get a download; the error says so."""
    blocked = tmp_path / "data"
    blocked.write_text("not a folder")
    with pytest.raises(DatasetError, match="cannot be downloaded"):
        read_idx_files("fashion-mnist", blocked)
