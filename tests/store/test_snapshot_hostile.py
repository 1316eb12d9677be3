"""Snapshots that somebody made up: every checksum right, nothing else."""

import json
import random
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pytest

from nanscope.errors import RunFileError
from nanscope.store.snapshots.slots import HEADER_BYTES, TABLE_LIMIT, Head, pack_head
from tests.store.snapshot_files import SlotFile, put_all, slot_file

SIZE = 1 << 16


def craft(folder: Path, table: bytes, rows: int = 1, **fields: Any) -> SlotFile:
    """A file with one slot whose header, table and checksums are right and say what they like."""
    file = SlotFile(folder / "slots", 1, SIZE)
    data_bytes = fields.get("data_bytes", 1024)
    whole = table + zlib.crc32(bytes(256)).to_bytes(4, "little") * rows
    head = Head(rows, 1, 2, 0.5, data_bytes, len(table), zlib.crc32(whole))._replace(**fields)
    slot = bytearray(SIZE)
    packed = pack_head(head)
    slot[: len(packed)] = packed
    start = HEADER_BYTES + data_bytes
    if start < SIZE:
        slot[start:] = (whole + bytes(SIZE))[: SIZE - start]
    file.path.write_bytes(bytes(1000) + bytes(slot))
    return file


def table_of(*rows: Any) -> bytes:
    """A table with these entries."""
    return json.dumps({"entries": rows, "meta": {}}).encode()


GOOD = ["a", "float32", [8, 8], 0, 256]


def test_the_crafted_file_is_right_but_for_what_the_tests_change(tmp_path: Path) -> None:
    """The helper makes snapshots that are read."""
    (snapshot,) = craft(tmp_path, table_of(GOOD)).read()
    assert snapshot.array("a").shape == (8, 8)


ROWS = {
    "of a known type": [
        ["a", "object", [8, 8], 0, 256],
        ["a", "|O", [8, 8], 0, 256],
        ["a", "../../x", [8, 8], 0, 256],
        ["a", "float32", "88", 0, 256],
        ["a", "float32", [8, 8], 0.0, 256],
        ["a", "float32", [8, 8], 0],
        {"name": "a"},
        17,
        [["a"], "float32", [8, 8], 0, 256],
    ],
    "whose size is not that of its elements": [
        ["a", "float32", [8, 8], 0, 255],
        ["a", "float32", [2**20, 2**20], 0, 0],
        ["a", "float32", [8, 8], -64, 256],
        ["a", "float64", [8, 8], 0, 256],
    ],
    "an odd shape": [
        ["a", "float32", [-8, -8], 0, 256],
        ["a", "float32", [0, 2**62], 0, 0],
        ["a", "float32", [8.0, 8], 0, 256],
        ["a", "float32", [1] * 65 + [64], 0, 256],
        ["a", "float32", [True, 64], 0, 256],
    ],
    "outside of its place": [
        ["a", "float32", [8, 8], 1024, 256],
        ["a", "float32", [8, 8], 32, 256],
        ["a", "float32", [8, 8], 2**70, 256],
        ["a", "uint8", [2**40], 0, 2**40],
    ],
    "an odd name": [
        ["\x1b[31mred", "float32", [8, 8], 0, 256],
        ["\u202eevil", "float32", [8, 8], 0, 256],
        ["a" * 10_000, "float32", [8, 8], 0, 256],
        ["\ud800", "float32", [8, 8], 0, 256],
    ],
}


@pytest.mark.parametrize(("reason", "row"), [(reason, row) for reason, rows in ROWS.items() for row in rows])
@pytest.mark.parametrize("check", [True, False])
def test_an_entry_that_cannot_be(tmp_path: Path, reason: str, row: Any, check: bool) -> None:
    """Refused in one sentence with the reason, before an array is read."""
    file = craft(tmp_path, table_of(row))
    with pytest.raises(RunFileError, match=rf"run\.h5 holds a malformed snapshot: its table .*{reason}"):
        file.read(check=check)


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (b"{", "is no JSON"),
        (b"\xff\xfe", "is no JSON"),
        (b"[" * 30_000, "is no JSON"),
        (b"[]", "lacks entries or meta"),
        (b'{"entries": [], "meta": {}}', "lacks entries or meta"),
        (b'{"entries": [1]}', "lacks entries or meta"),
        (b'{"entries": [1], "meta": 5}', "lacks entries or meta"),
    ],
)
def test_a_table_that_is_none(tmp_path: Path, table: bytes, reason: str) -> None:
    """Neither nesting nor bytes that are no text get through."""
    with pytest.raises(RunFileError, match=reason):
        craft(tmp_path, table).read()


def test_entries_that_overlap_or_share_a_name(tmp_path: Path) -> None:
    """A thousand entries over the same gigabyte would take hours to check."""
    with pytest.raises(RunFileError, match="outside of its place"):
        craft(tmp_path, table_of(GOOD, ["b", *GOOD[1:]]), rows=2).read()
    with pytest.raises(RunFileError, match="two entries of one name"):
        craft(tmp_path, table_of(GOOD, ["a", "float32", [8, 8], 256, 256]), rows=2).read()


@pytest.mark.parametrize(
    "fields",
    [
        {"data_bytes": SIZE},
        {"data_bytes": 2**63},
        {"table_bytes": 2**62},
        {"table_bytes": TABLE_LIMIT + 1},
        {"entries": 2**32 - 1},
        {"entries": 10_000},
    ],
)
def test_a_header_that_points_beyond_its_slot(tmp_path: Path, fields: dict[str, int]) -> None:
    """Refused before anything is read from there, in little memory."""
    file = craft(tmp_path, table_of(GOOD), **fields)
    tracemalloc.start()
    with pytest.raises(RunFileError, match="larger than its slot"):
        file.read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_slot_beyond_the_end_of_the_file(tmp_path: Path) -> None:
    """A file that was cut: one sentence."""
    file = craft(tmp_path, table_of(GOOD))
    for size in (0, 1500, 1000 + HEADER_BYTES + 1030):
        data = file.path.read_bytes()
        file.path.write_bytes(data[:size])
        with pytest.raises(RunFileError, match="became shorter while it was read"):
            file.read()
        file.path.write_bytes(data)


def test_a_slot_smaller_than_a_header(tmp_path: Path) -> None:
    """Sizes come from the file, too."""
    (tmp_path / "slots").write_bytes(bytes(5000))
    with pytest.raises(RunFileError, match="no room for a header"):
        SlotFile(tmp_path / "slots", 1, 100).read()


def test_mutants(tmp_path: Path) -> None:
    """Random bytes of a valid file changed: what is listed is readable, or there is one sentence."""
    file = slot_file(tmp_path)
    with file.writing() as writer:
        put_all(writer, 1, 2)
    sound = file.path.read_bytes()
    ends = [start + s.nbytes for start, s in zip(file.offsets.values(), file.read()[::-1], strict=True)]
    spots = [range(1000, 1100), range(ends[0] - 400, ends[0]), range(1000, file.size)]
    rng = random.Random(5)
    seen = set()
    for _ in range(300):
        data = bytearray(sound)
        for _ in range(rng.randrange(1, 6)):
            data[rng.choice(rng.choice(spots))] = rng.randrange(256)
        file.path.write_bytes(data)
        found = file.read()
        for snapshot in found:
            assert all(len(snapshot.array(name)) >= 0 for name in snapshot.names)
        seen.add(tuple(s.step for s in found))
    assert {(2,), (2, 1)} <= seen
