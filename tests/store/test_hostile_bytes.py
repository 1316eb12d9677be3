"""Files cut at every structure, and chunks that inflate without end."""

from __future__ import annotations

import os
import tracemalloc
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from nanscope.errors import RunFileError
from nanscope.store.compaction.chunks import chunk_crc
from nanscope.store.compaction.compact import compact
from nanscope.store.reader import open_run
from tests.store.crafts import sound
from tests.store.mutating import Original

ROWS = 250


@pytest.fixture(params=["live", "compact"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A sound run file of each kind."""
    sound(tmp_path / "run.h5", ROWS)
    if request.param == "compact":
        compact(tmp_path / "run.h5")
    return tmp_path / "run.h5"


def test_a_file_cut_at_every_structure(path: Path) -> None:
    """Before, in the middle of and behind each piece that libhdf5 reads: refused, in words for a person."""
    original = Original.of(path)
    lengths = {at for start, size in original.metadata for at in (start, start + size // 2, start + size)}
    cuts = sorted((at for at in lengths if at < len(original.data)), reverse=True)
    assert len(cuts) > 60
    for length in cuts:
        os.truncate(path, length)
        with pytest.raises(RunFileError, match=r"is damaged or cut short: copy it again|is not an HDF5 file"):
            open_run(path)


def craft_chunk(path: Path, data: bytes) -> None:
    """Let the file's own index lead to other bytes in the place of the first chunk."""
    with h5py.File(path, "r+") as file:
        file["extra"] = np.frombuffer(data, np.uint8)
        offset = file["extra"].id.get_offset()
        file["chunks/columns"][0, 0] = [offset, len(data), chunk_crc(data, "columns", 0, 0)]


@pytest.fixture
def compacted(tmp_path: Path) -> Path:
    """A compacted run file."""
    sound(tmp_path / "run.h5", ROWS)
    compact(tmp_path / "run.h5")
    return tmp_path / "run.h5"


@pytest.mark.real_child
@pytest.mark.parametrize(
    ("inflated", "words"),
    [(300_000, "whose checksum is wrong"), (50_000_000, "larger than its contents")],
)
def test_a_chunk_that_inflates_without_end(compacted: Path, inflated: int, words: str) -> None:
    """With the right checksum: no more of it is inflated than the chunk may hold."""
    craft_chunk(compacted, zlib.compress(bytes(inflated), 9))
    run = open_run(compacted)
    tracemalloc.start()
    try:
        with pytest.raises(RunFileError, match=words):
            run.source.column(0, 0, ROWS)
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()


@pytest.mark.real_child
def test_a_chunk_that_is_crafted_well_is_read(compacted: Path) -> None:
    """So it is the size that is refused: the same place with honest bytes gives these."""
    planes = np.arange(ROWS, dtype="<f4").view(np.uint8).reshape(-1, 4).T
    craft_chunk(compacted, zlib.compress(planes.tobytes()))
    np.testing.assert_array_equal(open_run(compacted).source.column(0, 0, ROWS), np.arange(ROWS))
