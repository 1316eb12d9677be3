"""Small run files, and rows whose every bit follows from their number."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanscope.run import Column, Floats, Header, Run
from nanscope.store.layout import Layout
from nanscope.store.regions import write_all
from nanscope.store.writer import RunWriter

BLOCK, RING = 64, 256


def layout(columns: int, blocks: int = 1024) -> Layout:
    """Sizes at which a few hundred rows fill blocks and go round the ring."""
    return Layout(columns, BLOCK, RING, blocks, blocks)


def header(columns: int) -> Header:
    """Scalars `s0`, `s1` ..."""
    return Header(tuple(Column(None, f"s{i}") for i in range(columns)))


def pattern(start: int, stop: int, columns: int) -> Floats:
    """Rows start..stop: arbitrary bits, so NaN with payloads, infinities and subnormals are among them."""
    row = np.arange(start, stop, dtype=np.uint64)[:, None] * np.uint64(2654435761)
    mixed = (row + np.arange(columns, dtype=np.uint64) * np.uint64(40503)) * np.uint64(0x9E3779B97F4A7C15)
    return (mixed >> np.uint64(32)).astype(np.uint32).view(np.float32)


def bits(values: Floats) -> NDArray[np.uint32]:
    """The values' bits: unlike NaN, they equal themselves."""
    return np.ascontiguousarray(values, np.float32).view(np.uint32)


@contextlib.contextmanager
def writing(path: Path, columns: int, blocks: int = 1024) -> Iterator[RunWriter]:
    """A writer on a small run file."""
    writer = RunWriter.create(path, header(columns), layout=layout(columns, blocks))
    try:
        yield writer
    finally:
        writer.close()


def append_pattern(writer: RunWriter, start: int, stop: int, columns: int) -> None:
    """Append the rows start..stop of the pattern; row i is step 3 i, at i / 8 seconds."""
    for i, row in enumerate(pattern(start, stop, columns), start):
        writer.append(3 * i, i / 8, row)


def assert_pattern(run: Run, numbers: NDArray[np.int64]) -> None:
    """The run holds exactly these rows of the pattern."""
    columns = len(run.header.columns)
    expected = np.concatenate([pattern(i, i + 1, columns) for i in numbers] or [np.empty((0, columns))])
    np.testing.assert_array_equal(run.source.steps(0, len(run)), 3 * numbers)
    np.testing.assert_array_equal(run.source.times(0, len(run)), numbers / 8)
    np.testing.assert_array_equal(bits(run.source.block(0, len(run))), bits(expected))


def full_beyond(limit: int) -> Any:
    """A `write_all` for a disk that has no room beyond an offset."""

    def write(descriptor: int, data: Any, offset: int) -> None:
        if offset + memoryview(data).nbytes > limit:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_all(descriptor, data, offset)

    return write
