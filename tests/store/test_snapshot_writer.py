"""The writer of snapshots beside a training: it neither waits nor raises, in a known memory."""

import os
import threading
import tracemalloc
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanscope.store import regions
from nanscope.store.regions import write_all
from nanscope.store.snapshots import writer as snapshot_writer
from nanscope.store.snapshots.slots import HEADER_BYTES, TABLE_LIMIT, Piece, slot_bytes_for
from nanscope.store.snapshots.writer import SnapshotWriter
from tests.store.files import full_beyond
from tests.store.snapshot_files import SlotFile, assert_state, pieces, put, put_all, slot_file, state


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long a disk takes is not tested here."""
    monkeypatch.setattr(regions, "_sync_data", os.fstat)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A disk that takes nothing until the event is set."""
    event = threading.Event()

    def write(*arguments: Any) -> None:
        assert event.wait(20)
        write_all(*arguments)

    monkeypatch.setattr(regions, "write_all", write)
    yield event
    event.set()


def test_a_slow_disk_is_not_waited_for(tmp_path: Path, gate: threading.Event) -> None:
    """While one is being written the next is left out, and what is written is the one that was put."""
    file = slot_file(tmp_path)
    with file.writing() as writer:
        arrays = state(1)
        assert writer.put(1, 1 / 8, pieces(arrays), {"of": 1})
        for array in arrays.values():
            array[...] = 0  # the training goes on
        assert not put(writer, 2)
        assert (writer.taken, writer.skipped) == (1, 1)
        assert not writer.wait(0.01)
        assert writer.pin(1)
        gate.set()
        assert writer.wait()
        put_all(writer, 3, 4)
    assert [(s.step, s.pinned) for s in file.read()] == [(4, False), (1, True)]
    assert_state(file.read()[1])


def test_close_finishes_what_is_being_written(tmp_path: Path, gate: threading.Event) -> None:
    """Put, closed at once: it is in the file. Afterwards nothing is taken."""
    file = slot_file(tmp_path)
    with file.writing() as writer:
        assert put(writer, 1)
        threading.Timer(0.02, gate.set).start()
        writer.close()
        assert not put(writer, 2)
        assert not writer.pin(1)
    assert file.steps() == [1]


def test_close_does_not_wait_for_a_disk_that_hangs(
    tmp_path: Path, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread keeps its own descriptor, so that nothing is written into another file."""
    monkeypatch.setattr(snapshot_writer, "JOIN_SECONDS", 0.01)
    file = slot_file(tmp_path)
    with file.writing() as writer:
        assert put(writer, 1)
        writer.close()
        assert file.read() == ()
        gate.set()
        writer._thread.join()
    assert file.steps() == [1]


def test_larger_than_its_slot(tmp_path: Path) -> None:
    """Left out, counted, said once; a smaller one still goes in. A table that is too long, too."""
    file = slot_file(tmp_path)
    with file.writing() as writer:
        large = pieces(state(1, (3000 + 4096,)))
        with pytest.warns(RuntimeWarning, match="does not fit into its slot") as told:
            assert not any([writer.put(1, 0.0, large, {}), writer.put(2, 0.0, large, {})])
        assert not writer.put(1, 0.0, {}, {"text": "x" * TABLE_LIMIT})
        assert (len(told), writer.refused) == (1, 3)
        put_all(writer, 2)
    assert file.steps() == [2]


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One warning; the snapshot that is there is not given up for one that cannot be written; pins lapse."""
    file = slot_file(tmp_path)
    with file.writing() as writer:
        put_all(writer, 1)
        monkeypatch.setattr(regions, "write_all", full_beyond(file.offsets["snapshots/slot1"] + 5000))
        with pytest.warns(RuntimeWarning, match="No space left on device; the training goes on") as told:
            put_all(writer, 2, 3)
        assert not writer.pin(3)
        assert (len(told), writer.failed, file.steps()) == (1, 2, [1])
        monkeypatch.setattr(regions, "write_all", write_all)
        put_all(writer, 4, 5)
    assert file.steps() == [5, 4]
    for snapshot in file.read():
        assert_state(snapshot)


def test_a_warning_made_an_error_does_not_end_the_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`-W error` and a disk that fails: the next snapshot is written when the disk works again."""
    file = slot_file(tmp_path)
    with warnings.catch_warnings(), file.writing() as writer:
        warnings.simplefilter("error")
        monkeypatch.setattr(regions, "write_all", full_beyond(0))
        put_all(writer, 1)
        monkeypatch.setattr(regions, "write_all", write_all)
        put_all(writer, 2)
    assert file.steps() == [2]


def test_an_interrupted_copy_costs_nothing(tmp_path: Path) -> None:
    """A tensor that cannot be read: the error is the caller's, the slots are as before."""

    def fail(_: Any) -> None:
        raise RuntimeError("device lost")

    file = slot_file(tmp_path)
    with file.writing() as writer:
        put_all(writer, 1, 2)
        with pytest.raises(RuntimeError, match="device lost"):
            writer.put(3, 0.0, {**pieces(state(3)), "a1": Piece("uint8", (1,), fail)}, {})
        put_all(writer, 4)
    assert file.steps() == [4, 2]
    assert_state(file.read()[0])


def test_memory_is_set_aside_once(tmp_path: Path) -> None:
    """Twenty snapshots of 8 MB make no second copy: less than 5 % above the one buffer, freed at the end."""
    arrays = pieces({"a": np.zeros(1 << 20), "b": np.ones((3, 5))})
    file = SlotFile(tmp_path / "slots", 2, slot_bytes_for(arrays, {}, spare=0))
    tracemalloc.start()
    with file.writing() as writer:
        before = tracemalloc.get_traced_memory()[0]
        assert file.slot_bytes - HEADER_BYTES <= before < 1.05 * file.slot_bytes
        for step in range(20):
            assert writer.put(step, 0.0, arrays, {})
            assert writer.wait()
        peak = tracemalloc.get_traced_memory()[1]
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert peak < 1.05 * file.slot_bytes
    assert after < 0.05 * file.slot_bytes


@pytest.mark.parametrize("error", [MemoryError("no room"), RuntimeError("can't start new thread")])
def test_no_memory_or_no_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Said once; nothing is put, nothing raised, and no descriptor is left open."""

    def fail(*_: Any) -> None:
        raise error

    file = slot_file(tmp_path)
    monkeypatch.setattr(threading.Thread, "start", fail)
    with file.path.open("wb") as opened:
        opened.truncate(file.size)
        with pytest.warns(RuntimeWarning, match=f"leaves out snapshots of the state: {error}"):
            writer = SnapshotWriter(opened.fileno(), file.offsets, file.slots, file.slot_bytes)
        assert not put(writer, 1)
        writer.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        writer._regions.sync()
    assert file.read() == ()


def test_a_forked_child_writes_nothing(tmp_path: Path, gate: threading.Event) -> None:
    """The child lets go; the parent's snapshot, half written at that moment, is completed by the parent."""
    file = slot_file(tmp_path)
    with file.writing() as writer:
        assert put(writer, 1)
        pid = os.fork()
        if pid == 0:  # the child must not come back into pytest, whatever happens
            code = 1
            try:
                done = (put(writer, 2), writer.pin(1), put(writer, 3), writer.wait(), writer.close())
                code = int(done != (False, False, False, True, None))
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        gate.set()
        put_after(writer, 4)
    assert file.steps() == [4, 1]
    assert_state(file.read()[1])


def put_after(writer: SnapshotWriter, step: int) -> None:
    """Put when the one before is on the disk."""
    assert writer.wait()
    put_all(writer, step)
