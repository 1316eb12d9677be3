"""Snapshots whose writer is killed or whose power is cut: whole ones only, and not fewer than promised."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from nanscope.store import regions
from nanscope.store.regions import write_all
from tests.store.snapshot_files import SlotFile, assert_state, put, put_all, slot_file

SECTOR = 512
PUTS = (1, 2, 3, 4, 5, 6)
PIN = 3


class Write(NamedTuple):
    """One entry of the log of a writer; without data it is the end of a sync."""

    offset: int
    data: bytes


def log_of(file: SlotFile, monkeypatch: pytest.MonkeyPatch) -> list[Write]:
    """Put some snapshots, one of them pinned, and note every write and sync."""
    log: list[Write] = []

    def write(descriptor: int, data: Any, offset: int) -> None:
        log.append(Write(offset, bytes(data)))
        write_all(descriptor, data, offset)

    monkeypatch.setattr(regions, "write_all", write)
    monkeypatch.setattr(regions, "_sync_data", lambda _: log.append(Write(0, b"")))
    monkeypatch.setattr("nanscope.store.snapshots.writer.WRITE_BYTES", 5000)
    with file.writing() as writer:
        for step in PUTS:
            put_all(writer, step)
            if step == PIN:
                assert writer.pin(step)
    monkeypatch.setattr(regions, "write_all", write_all)
    return log


def image(file: SlotFile, writes: list[Write]) -> bytearray:
    """The file after these writes."""
    data = bytearray(file.size)
    for offset, piece in writes:
        data[offset : offset + len(piece)] = piece
    return data


def found_in(file: SlotFile, data: bytes | bytearray) -> list[int]:
    """Steps of the snapshots in an image; each must be exactly what was put."""
    file.path.write_bytes(data)
    found = file.read()
    for snapshot in found:
        assert_state(snapshot)
        assert snapshot.pinned <= (snapshot.step == PIN)
    return [snapshot.step for snapshot in found]


def promised(steps: list[int], whole: int, slots: int) -> None:
    """Of `whole` finished snapshots the pinned one is there and, if two slots are not pinned, the newest."""
    pinned = whole > PIN
    assert len(steps) >= min(whole, slots - 1)
    assert PIN in steps or not pinned
    if whole and slots - pinned > 1:
        assert max(steps) >= PUTS[whole - 1]


def whole_after(log: list[Write], count: int) -> int:
    """How many snapshots are finished after so many entries of the log: their headers are on the disk."""
    heads = [i for i, write in enumerate(log) if write.data[:4] == b"\x93NSS"]
    return sum(log[head + 1 : count].count(Write(0, b"")) > 0 for head in heads)


@pytest.mark.parametrize("slots", [2, 3])
def test_every_moment_of_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slots: int) -> None:
    """After each prefix of the write log, and in the middle of each write: never a wrong snapshot."""
    file = slot_file(tmp_path, slots)
    log = log_of(file, monkeypatch)
    assert len(log) > 40
    rng = random.Random(slots)
    for count, write in enumerate(log):
        before = log[:count]
        promised(found_in(file, image(file, before)), whole_after(log, count), slots)
        cut = Write(write.offset, write.data[: rng.randrange(len(write.data) + 1)])
        promised(found_in(file, image(file, [*before, cut])), whole_after(log, count), slots)
    assert found_in(file, image(file, log)) == [6, 5, 3][:slots] if slots == 3 else [6, 3]


def sectors(writes: list[Write]) -> list[Write]:
    """The writes in units that a disk writes whole."""
    pieces = []
    for offset, data in writes:
        edges = [offset, *range(offset // SECTOR * SECTOR + SECTOR, offset + len(data), SECTOR)]
        stops = [*edges[1:], offset + len(data)]
        pieces += [Write(a, data[a - offset : b - offset]) for a, b in zip(edges, stops, strict=True)]
    return pieces


@pytest.mark.parametrize("seed", range(4))
def test_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Since the last sync any sectors may have reached the disk: what was finished is still there."""
    rng = random.Random(seed)
    file = slot_file(tmp_path, 2)
    log = log_of(file, monkeypatch)
    for _ in range(60):
        count = rng.randrange(len(log))
        synced = max((i for i in range(count) if not log[i].data), default=0)
        loose = sectors([write for write in log[synced:count] if write.data])
        share = rng.random()
        some = [sector for sector in loose if rng.random() < share]
        steps = found_in(file, image(file, [*log[:synced], *some]))
        promised(steps, whole_after(log, count), 2)


@pytest.mark.parametrize("seed", range(4))
def test_a_disk_that_lies_about_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Any sectors of the whole log, in any state: checksums let no mixture pass for a snapshot."""
    rng = random.Random(seed)
    file = slot_file(tmp_path, 2)
    everything = sectors([write for write in log_of(file, monkeypatch) if write.data])
    kept = 0
    for _ in range(60):
        missing = rng.choice((0.001, 0.01, 0.1))
        stop = rng.randrange(len(everything))
        kept += len(found_in(file, image(file, [w for w in everything[:stop] if rng.random() > missing])))
    assert kept > 0


CHILD = """
import os, sys
from pathlib import Path
from nanscope.store import regions
from nanscope.store.snapshots import writer as snapshot_writer
from tests.store.snapshot_files import *
plain = regions.write_all
def write(*arguments):
    plain(*arguments)
    os.write(1, b".")
regions.write_all = write
snapshot_writer.WRITE_BYTES = 5000
file = SlotFile(Path(sys.argv[1]), 3, int(sys.argv[2]))
with file.writing() as writer:
    step = 1
    while True:
        if put(writer, step):
            if step == 4: writer.pin(step)
            step += 1
"""


@pytest.mark.parametrize("writes", random.Random(1).sample(range(1, 200), 6))
def test_sigkill(tmp_path: Path, writes: int) -> None:
    """A child that puts as fast as it can dies right after a random write, or within the next one."""
    file = slot_file(tmp_path, 3)
    program = [sys.executable, "-c", CHILD, str(file.path), str(file.slot_bytes)]
    with subprocess.Popen(program, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert len(child.stdout.read(writes)) == writes
        os.kill(child.pid, signal.SIGKILL)
        made = writes + len(child.stdout.read())
    found = file.read()
    for snapshot in found:
        assert_state(snapshot)
    per_put = 3 + -(-12_100 // 5000)  # header, data in pieces, table, header
    whole = (made - 1) // per_put
    assert len(found) >= min(whole, 2)
    if whole:
        assert found[0].step >= whole
    if whole >= 5:
        assert (4, True) in [(snapshot.step, snapshot.pinned) for snapshot in found]


def flipped(data: bytes, position: int) -> bytes:
    """The data with one bit turned over."""
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


@pytest.mark.parametrize("where", [20, 5000, -2])
def test_one_wrong_bit(tmp_path: Path, where: int) -> None:
    """In the header, the data or the checksums: that snapshot is gone, the other one is there."""
    file = slot_file(tmp_path)
    with file.writing() as writer:
        put_all(writer, 1, 2)
    position = file.offsets["snapshots/slot1"] + where % file.read()[0].nbytes
    assert found_in(file, flipped(file.path.read_bytes(), position)) == [1]


def test_a_snapshot_that_is_overwritten_after_it_was_listed(tmp_path: Path) -> None:
    """Reading its arrays says so, instead of giving those of another step."""
    file = slot_file(tmp_path)
    with file.writing() as writer:
        put_all(writer, 1, 2)
        (_, old) = file.read()
        put_all(writer, 3)
        assert old.step == 1
        with pytest.raises(Exception, match="no longer holds the snapshot of step 1 as it was"):
            old.array("a0")
        assert put(writer, 4)
        assert np.array_equal(old.array("a2"), [])
