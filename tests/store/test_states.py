"""Snapshots in the files of a run: beside its rows, over its parts, after it was compacted."""

from pathlib import Path

import numpy as np

from nanscope.store.compaction.compact import compact
from nanscope.store.reader import open_run
from nanscope.store.snapshots.slots import Piece
from nanscope.store.snapshots.states import snapshots_of
from nanscope.store.snapshots.writer import SnapshotRoom
from nanscope.store.writer import RunWriter
from tests.store.files import BLOCK, append_pattern, assert_pattern, header, layout

ROOM = SnapshotRoom(2, 1 << 16)


def take(writer: RunWriter, step: int) -> None:
    """Take a snapshot and wait until it is in the file."""
    array = np.full(100, step, np.float32)
    assert writer.snapshot(step, step / 8, {"parameters/w": Piece.of(array)}, {"of": step})
    assert writer._snapshots is not None
    assert writer._snapshots.wait()


def test_snapshots_beside_rows_in_every_part(tmp_path: Path) -> None:
    """Newest first; two slots in each of two parts; the rows are as they were."""
    path = tmp_path / "run.h5"
    writer = RunWriter.create(path, header(2), layout=layout(2, blocks=2), snapshots=ROOM)
    for start in range(0, 4 * BLOCK, BLOCK):
        append_pattern(writer, start, start + BLOCK, 2)
        take(writer, start)
    writer.close()
    assert_pattern(open_run(path), np.arange(4 * BLOCK))
    found = snapshots_of(path)
    assert [snapshot.step for snapshot in found] == [3 * BLOCK, 2 * BLOCK, BLOCK, 0]
    for snapshot in found:
        np.testing.assert_array_equal(snapshot.array("parameters/w"), np.full(100, snapshot.step, np.float32))
        assert snapshot.meta == {"of": snapshot.step}


def test_compaction_keeps_snapshots(tmp_path: Path) -> None:
    """Those of all parts, and which of them are kept for good."""
    path = tmp_path / "run.h5"
    writer = RunWriter.create(path, header(2), layout=layout(2), snapshots=ROOM)
    append_pattern(writer, 0, 3 * BLOCK, 2)
    for step in (5, 6):
        take(writer, step)
    assert writer.pin_snapshot(5)
    take(writer, 7)
    writer.close()
    compact(path)
    assert_pattern(open_run(path), np.arange(3 * BLOCK))
    found = snapshots_of(path)
    assert [(snapshot.step, snapshot.pinned) for snapshot in found] == [(7, False), (5, True)]
    np.testing.assert_array_equal(found[1].array("parameters/w"), np.full(100, 5, np.float32))


def test_without_room_there_are_none(tmp_path: Path) -> None:
    """A writer that was given no room takes none and says so."""
    writer = RunWriter.create(tmp_path / "run.h5", header(2), layout=layout(2))
    assert not writer.snapshot(0, 0.0, {}, {})
    assert not writer.pin_snapshot(0)
    writer.close()
    assert snapshots_of(tmp_path / "run.h5") == ()
