"""MNIST and Fashion-MNIST from their IDX files, plain or gzipped, from where they lie or from the network.

The format: two zero bytes, a type code (8 is uint8), the number of dimensions, one big-endian 32-bit integer
per dimension, then the values (LeCun, Cortes and Burges, "The MNIST database of handwritten digits").
"""

from __future__ import annotations

import gzip
import math
import socket
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from nanscope.errors import DatasetError

Bytes = NDArray[np.uint8]

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
"""Each data set's folder below the data folder; also the name of its class in torchvision."""

SYSTEM_FOLDERS = {"fashion-mnist": Path("/usr/share/datasets/fashion-mnist")}
"""Where Debian's packages put them."""

PATIENCE = 10.0  # seconds for one answer of a server, so that a silent network does not hang the command
CLASSES = 10
_UINT8 = 8
_LARGEST = 2**30  # bytes; MNIST has 47 million, a damaged header can announce anything


def read_idx_files(name: str, data_dir: Path) -> tuple[Bytes, Bytes, Bytes, Bytes]:
    """Training images, training labels, test images and test labels, in the order of `FILES`.

    Args:
        name: a key of `FOLDERS`.
        data_dir: folder that has, or will get, `MNIST/raw` or `FashionMNIST/raw`; the files may also lie in
            it directly.

    Returns:
        Images of shape (samples, height, width) and labels of shape (samples,), all uint8.

    Raises:
        DatasetError: the files are not here and cannot be fetched, or one cannot be read.
    """
    paths = _find(name, data_dir) or _fetch(name, data_dir)
    train_x, train_y, test_x, test_y = (_read(path) for path in paths)
    _check_pair(paths[0], train_x, train_y)
    _check_pair(paths[2], test_x, test_y)
    if train_x.shape[1:] != test_x.shape[1:]:
        raise _damaged(paths[2], "its images differ in size from the training images")
    return train_x, train_y, test_x, test_y


def _find(name: str, data_dir: Path) -> tuple[Path, ...]:
    """The four files in the first folder that has them all; empty where none has."""
    places = [data_dir / FOLDERS[name] / "raw", data_dir]
    if name in SYSTEM_FOLDERS:
        places.append(SYSTEM_FOLDERS[name])
    return next((paths for place in places if len(paths := _files_in(place)) == len(FILES)), ())


def _files_in(folder: Path) -> tuple[Path, ...]:
    """Those of the four files that a folder has, the plain one where both are there."""
    both = ((folder / file, folder / f"{file}.gz") for file in FILES)
    return tuple(found for pair in both if (found := next(filter(Path.is_file, pair), None)))


def _fetch(name: str, data_dir: Path) -> tuple[Path, ...]:
    from torchvision import datasets  # noqa: PLC0415 - seconds to import, and rarely needed

    folder = FOLDERS[name]
    try:
        with _impatient():
            getattr(datasets, folder)(data_dir, download=True)
    except (OSError, RuntimeError, HTTPException) as error:
        raise DatasetError(
            f"{name} is not in {data_dir} and cannot be downloaded ({_reason(error)})",
            f"put its four IDX files in {data_dir / folder / 'raw'}, or name their folder with --data-dir",
        ) from None
    return _find(name, data_dir)


@contextmanager
def _impatient() -> Iterator[None]:
    """Network calls give up after `PATIENCE`; torchvision sets no limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _reason(error: Exception) -> str:
    """The end of an error's message in one line: torchvision lists every mirror, the last says enough."""
    lines = str(error).split("\n")
    last = next((line for line in reversed(lines) if line.strip()), type(error).__name__)
    return " ".join(last.split())


def _read(path: Path) -> Bytes:
    try:
        with _open(path) as file:
            shape = _shape(file, path)
            size = math.prod(shape)
            data = file.read(min(size, _LARGEST) + 1)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise _damaged(path, _reason(error)) from None
    if len(data) != size:
        found = f"more than {size:,}" if len(data) > size else f"{len(data):,}"
        raise _damaged(path, f"{size:,} values are announced, {found} follow")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _open(path: Path) -> BinaryIO | gzip.GzipFile:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _shape(file: BinaryIO | gzip.GzipFile, path: Path) -> tuple[int, ...]:
    zeros, kind, dimensions = struct.unpack(">HBB", file.read(4))
    expected = 3 if "images" in path.name else 1
    if (zeros, kind, dimensions) != (0, _UINT8, expected):
        raise _damaged(path, f"it does not start as {expected}-dimensional uint8 IDX data do")
    return struct.unpack(f">{dimensions}I", file.read(4 * dimensions))


def _check_pair(path: Path, images: Bytes, labels: Bytes) -> None:
    if len(images) != len(labels):
        raise _damaged(path, f"{len(images):,} images have {len(labels):,} labels")
    if images.size == 0:
        raise _damaged(path, "it holds no image")
    if labels.max() >= CLASSES:
        raise _damaged(path, f"label {labels.max()} is none of {CLASSES} classes")


def _damaged(path: Path, why: str) -> DatasetError:
    return DatasetError(f"{path} cannot be used ({why})", "delete it to have it downloaded again")
