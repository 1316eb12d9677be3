"""Small files with snapshot slots, and states whose every bit follows from their step."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nanscope.store.snapshots.reader import Snapshot, read_snapshots
from nanscope.store.snapshots.slots import Piece, slot_bytes_for
from nanscope.store.snapshots.writer import SnapshotWriter

FIRST = 1000  # where the first slot begins: no multiple of anything

Arrays = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class SlotFile:
    """A file with slots.

    Attributes:
        path: of the file.
        slots, slot_bytes: how many and how large.
    """

    path: Path
    slots: int
    slot_bytes: int

    @property
    def offsets(self) -> dict[str, int]:
        """Where each slot begins."""
        return {f"snapshots/slot{i}": FIRST + i * self.slot_bytes for i in range(self.slots)}

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return FIRST + self.slots * self.slot_bytes

    @contextmanager
    def writing(self) -> Iterator[SnapshotWriter]:
        """A writer on the file, which is made with holes."""
        with self.path.open("wb") as file:
            file.truncate(self.size)
        descriptor = os.open(self.path, os.O_RDWR)
        writer = SnapshotWriter(descriptor, self.offsets, self.slots, self.slot_bytes)
        os.close(descriptor)
        try:
            yield writer
        finally:
            writer.close()

    def read(self, *, check: bool = True) -> tuple[Snapshot, ...]:
        """The snapshots in the file."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            return read_snapshots(
                descriptor, self.offsets, self.slots, self.slot_bytes, "run.h5", check=check
            )
        finally:
            os.close(descriptor)

    def steps(self) -> list[int]:
        """Steps of the snapshots, newest first."""
        return [snapshot.step for snapshot in self.read()]


def state(step: int, sizes: tuple[int, ...] = (3000, 7, 0)) -> Arrays:
    """Arrays of a step: other bits at each step."""
    rng = np.random.default_rng(step)
    return {f"a{i}": rng.integers(0, 2**32, n, np.uint32) for i, n in enumerate(sizes)}


def pieces(arrays: Arrays) -> dict[str, Piece]:
    """The arrays as what a writer takes."""
    return {name: Piece.of(array) for name, array in arrays.items()}


def put(writer: SnapshotWriter, step: int) -> bool:
    """Put the state of a step."""
    return writer.put(step, step / 8, pieces(state(step)), {"of": step})


def put_all(writer: SnapshotWriter, *steps: int) -> None:
    """Put the states of some steps, each when the one before is on the disk."""
    for step in steps:
        assert put(writer, step)
        assert writer.wait()


def assert_state(snapshot: Snapshot) -> None:
    """The snapshot holds exactly the state of its step."""
    expected = state(snapshot.step)
    assert (snapshot.names, snapshot.meta) == (tuple(expected), {"of": snapshot.step})
    assert snapshot.time == snapshot.step / 8
    for name, array in expected.items():
        np.testing.assert_array_equal(snapshot.array(name), array, strict=True)


def slot_file(folder: Path, slots: int = 2) -> SlotFile:
    """A file whose slots the states of `state` just fit into."""
    return SlotFile(folder / "slots", slots, slot_bytes_for(pieces(state(0)), {"of": 10**9}, spare=0))
