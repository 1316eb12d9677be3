"""The reader of compacted files: nothing damaged is believed, nothing is read without bound."""

import dataclasses
import json
import os
import shutil
import threading
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanscope.errors import RunFileError
from nanscope.store.compaction.chunks import ABSENT, Cache, chunk_crc
from nanscope.store.compaction.compact import compact
from nanscope.store.compaction.compacted import Compacted, open_compact
from nanscope.store.contents import Contents, open_contents
from nanscope.store.inventory import Inventory
from nanscope.store.layout import Layout
from nanscope.store.reader import open_run
from tests.store.compaction import COLUMNS, arrays, assert_same, grow, record, snapshot_of, table
from tests.store.files import bits

ROWS = 9000


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compacted run with several chunks per column and three levels of summaries."""
    path = tmp_path_factory.mktemp("compacted") / "run.h5"
    record(path, ROWS, layout=Layout(len(COLUMNS), 1024, 4096, 64, 64, 64))
    compact(path)
    return path


@pytest.fixture
def path(original: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copy(original, tmp_path / "run.h5"))


def opened(path: Path) -> Compacted:
    """As the reader opens it."""
    contents, descriptor = open_contents(path, "run.h5")
    return open_compact("run.h5", descriptor, contents.header, contents.inventory)


def regions(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of everything but HDF5's own structure."""
    contents, descriptor = open_contents(path, "run.h5")
    os.close(descriptor)
    for name, stored in contents.inventory.arrays.items():
        if stored.offset is not None:
            yield name, stored.offset, stored.nbytes
    for name, chunked in opened(path).tables.items():
        for series in range(chunked.series):
            for offset, size, _ in chunked.entries(series, 0, chunked.chunks).tolist():
                if (offset, size) != ABSENT[:2]:
                    yield f"a chunk of {name}", offset, size


def overwrite(path: Path, offset: int, data: bytes) -> None:
    """Change bytes of a file in place."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def test_every_flipped_bit_is_found(path: Path) -> None:
    """In each chunk, each list of chunks and each small table: reading it all raises, in one sentence."""
    rng = np.random.default_rng(1)
    names = set()
    for name, offset, size in [*regions(path)]:
        position = offset + int(rng.integers(size))
        with path.open("rb") as file:
            file.seek(position)
            before = file.read(1)
        overwrite(path, position, bytes([before[0] ^ 1 << int(rng.integers(8))]))
        with pytest.raises(RunFileError, match=r"(is damaged: it|damaged or cut short)"):
            snapshot_of(open_run(path))
        overwrite(path, position, before)
        names.add(name)
    assert names >= {
        f"a chunk of {name}" for name in ("columns", "step", "time", "pyramid/x64", "pyramid/block")
    }
    assert names >= {"chunks/columns", "epochs/confusion", "columns/site", "series/site_numel"}
    assert len(snapshot_of(open_run(path))) > 0


def test_damaged_text_is_found(path: Path) -> None:
    """A letter of an event, of a name or of the settings."""
    data = path.read_bytes()
    for word in (b'"kind": "note"', b"fc1.output", b'"lr"', b'"finished"', b"Euclidean"):
        assert word in data
        path.write_bytes(data.replace(word, word.swapcase()))
        with pytest.raises(RunFileError, match=r"damaged"):
            open_run(path)


def test_chunks_that_changed_places_are_found(path: Path) -> None:
    """Each chunk's checksum knows where it belongs, so that sound chunks in wrong places are refused."""
    contents, descriptor = open_contents(path, "run.h5")
    os.close(descriptor)
    index = contents.inventory.arrays["chunks/columns"]
    assert index.offset is not None
    with path.open("rb") as file:
        file.seek(index.offset)
        first, second = file.read(24), file.read(24)
    overwrite(path, index.offset, second + first)
    with pytest.raises(RunFileError, match="a chunk of columns whose checksum is wrong"):
        opened(path).source.column(0, 0, 10)


def test_a_hole_is_no_gap(path: Path) -> None:
    """Zeros where the list of chunks was do not read as "not measured"."""
    contents, descriptor = open_contents(path, "run.h5")
    os.close(descriptor)
    index = contents.inventory.arrays["chunks/columns"]
    overwrite(path, index.offset or 0, bytes(index.nbytes))
    for column in range(len(COLUMNS)):
        with pytest.raises(RunFileError, match="damaged"):
            opened(path).source.column(column, 0, 10)


@pytest.mark.parametrize("size", [10**3, 10**6])
def test_a_bomb_is_not_inflated(path: Path, size: int) -> None:
    """A chunk with the right checksum that inflates to too much: refused, and memory stays small."""
    bomb = zlib.compress(bytes(size * 100), 9)
    source = opened(path)
    table = source.tables["columns"]
    entry = np.array([path.stat().st_size, len(bomb), chunk_crc(bomb, "columns", 0, 0)], "<u8")
    overwrite(path, path.stat().st_size, bomb)
    overwrite(path, table.index, entry.tobytes())
    source = opened(path)
    tracemalloc.start()
    with pytest.raises(RunFileError, match=r"larger than its contents|checksum is wrong"):
        source.source.column(0, 0, 10)
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()


def test_a_list_that_points_outside_is_refused(path: Path) -> None:
    """Beyond the end, and so far that a signed number would overflow."""
    for offset in (path.stat().st_size - 5, 2**63 - 1, 2**64 - 2):
        overwrite(path, opened(path).tables["columns"].index, np.array([offset, 100, 1], "<u8").tobytes())
        with pytest.raises(RunFileError, match="points beyond its end"):
            opened(path).source.column(0, 0, 10)


def changed(inventory: Inventory, **state: Any) -> Inventory:
    """The inventory of a file that says something else of its parts, with the right checksums."""
    record = json.loads(inventory.texts["state"][0])
    record["parts"][0].update({key: state.pop(key) for key in list(state) if key in record["parts"][0]})
    texts = dict(inventory.texts) | {"state": [json.dumps(record | state)]}
    sums = json.loads(inventory.texts["checksums"][0])
    texts["checksums"] = [json.dumps({key: value for key, value in sums.items() if key != "state"})]
    return dataclasses.replace(inventory, texts=texts)


@pytest.mark.parametrize(
    "state",
    [
        {"rows": ROWS - 1},
        {"rows": -1},
        {"rows": "9000"},
        {"rows": True},
        {"rows": 1e4},
        {"parts": []},
        {"parts": [1]},
        {"parts": None},
        {"levels": {}},
        {"levels": {"pyramid/x64": 1}},
        {"levels": {"pyramid/x64": 0, "pyramid/block": 64}},
        {"levels": {"pyramid/x64": 2**70}},
        {"levels": {"chunks/columns": 64}},
        {"levels": {"pyramid/block": 64, "pyramid/x64": 64}},
        {"thins": 0},
        {"whole": [[0, 10], [5, 20]]},
        {"whole": [[0, ROWS + 1]]},
        {"whole": [[-1, 5]]},
        {"whole": [[0]]},
        {"whole": [0, 1]},
        {"whole": [[0.5, 1]]},
        {"whole": None},
        {"columns": [0, 1, 2, 3, 4, 5, 6, 8]},
        {"columns": [-1]},
        {"columns": [0.0]},
        {"columns": ["0"]},
        {"state": "live"},
        {"state": "?"},
        {"state": ["finished"]},
        {"lost": "text"},
        {"lost": [1]},
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(path: Path, state: dict[str, Any]) -> None:
    """A description that does not fit the rest of the file, or itself."""
    contents, descriptor = open_contents(path, "run.h5")
    with pytest.raises(RunFileError, match="does not say consistently what it holds"):
        open_compact("run.h5", descriptor, contents.header, changed(contents.inventory, **state))


def without(contents: Contents, name: str) -> Inventory:
    """The inventory of a file that lacks something."""
    texts = {key: value for key, value in contents.inventory.texts.items() if key != name}
    places = {key: value for key, value in contents.inventory.arrays.items() if key != name}
    return dataclasses.replace(contents.inventory, texts=texts, arrays=places)


def test_what_is_missing_is_refused(path: Path) -> None:
    """Any dataset that is needed; but for the chunked ones themselves, which only libhdf5 needs."""
    contents, first = open_contents(path, "run.h5")
    inventory = contents.inventory
    for name in [*inventory.texts, *inventory.arrays]:
        if name in ("series/values", "series/scalars", "series/time"):
            continue
        with pytest.raises(RunFileError, match=r"damaged"):
            open_compact("run.h5", os.dup(first), contents.header, without(contents, name))
    os.close(first)


def test_any_slice_is_right(path: Path) -> None:
    """Ranges within a chunk, at its edges and over several, in any order and from many threads."""
    expected, source = table(0, ROWS), open_run(path).source
    wrong: list[tuple[int, int]] = []

    def read(seed: int) -> None:
        rng = np.random.default_rng(seed)
        edges = rng.choice(
            [0, 1, 4095, 4096, 4097, 8191, 8192, ROWS - 1, ROWS, *range(0, ROWS, 500)], (40, 2)
        )
        for low, high in np.sort(edges, axis=1).tolist():
            index = int(rng.integers(len(COLUMNS)))
            same = np.array_equal(bits(source.column(index, low, high)), bits(expected[low:high, index]))
            same &= np.array_equal(bits(source.block(low, high)), bits(expected[low:high]))
            if not same:
                wrong.append((low, high))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_slices_of_parts_are_right(tmp_path: Path) -> None:
    """Each part of a run in one file is a window of it."""
    path = tmp_path / "run.h5"
    grow(path, 5000, 4500)
    before = arrays(open_run(path).source, len(open_run(path).header.columns))
    compact(path)
    run = open_run(path)
    for _ in range(2):  # the second time from the chunks that are kept
        assert_same(before, arrays(run.source, len(run.header.columns)))


def test_the_cache_is_bounded() -> None:
    """It lets go of what was not asked for the longest."""
    cache = Cache(limit=3000)
    for number in range(4):
        cache.put(("columns", 0, number), np.zeros(250, np.float32))
        assert cache.get(("columns", 0, 0)) is not None
    assert cache.get(("columns", 0, 1)) is None
    assert cache.get(("columns", 0, 3)) is not None
    cache.put(("columns", 0, 3), np.zeros(250, np.float32))
    assert cache.get(("columns", 0, 2)) is not None


def test_a_file_that_is_cut_is_refused(path: Path) -> None:
    """While it is open, and when it is opened."""
    source = opened(path).source
    os.truncate(path, 2000)
    with pytest.raises(RunFileError, match="became shorter while it was read"):
        source.block(0, ROWS)
    with pytest.raises(RunFileError):
        open_run(path)


def test_nothing_stays_open(path: Path) -> None:
    """The descriptor goes with the run, and with an open that failed."""
    count = sum(1 for _ in Path("/proc/self/fd").iterdir())
    run = open_run(path)
    run.source.block(0, 10)
    del run
    contents, descriptor = open_contents(path, "run.h5")
    with pytest.raises(RunFileError):
        open_compact("run.h5", descriptor, contents.header, changed(contents.inventory, rows=1))
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == count
