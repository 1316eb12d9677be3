"""Tiny IDX files in the layout of MNIST, written byte by byte from the format's description."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


def idx_bytes(values: Bytes) -> bytes:
    """Values as an IDX file of type uint8."""
    header = bytes([0, 0, 8, values.ndim]) + b"".join(struct.pack(">i", size) for size in values.shape)
    return header + values.tobytes()


def tiny_images(samples: int, seed: int) -> tuple[Bytes, Bytes]:
    """Random 4x3 images and their labels."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (samples, 4, 3), np.uint8)
    return images, generator.integers(0, 10, samples, np.uint8)


def write_idx_files(folder: Path, *, zipped: bool = False) -> tuple[Bytes, Bytes, Bytes, Bytes]:
    """30 training and 10 test samples as the four files; gives back what was written."""
    arrays = (*tiny_images(30, 1), *tiny_images(10, 2))
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in zip(names, arrays, strict=True):
        path = folder / f"{name}-ubyte"
        if zipped:
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(idx_bytes(values)))
        else:
            path.write_bytes(idx_bytes(values))
    return arrays
