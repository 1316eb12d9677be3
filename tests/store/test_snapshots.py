"""Snapshots: what is put comes back bit for bit, which are kept, and what a reader beside the writer sees."""

import os
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanscope.errors import RunFileError
from nanscope.store import regions
from nanscope.store.snapshots.slots import HEADER_BYTES, ITEM_BYTES, Piece, numpy_dtype, slot_bytes_for
from tests.store.snapshot_files import SlotFile, assert_state, pieces, put, put_all, slot_file, state

SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)


ARRAYS = st.lists(st.tuples(st.sampled_from(sorted(ITEM_BYTES)), SHAPES), max_size=8)


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long a disk takes is not tested here."""
    monkeypatch.setattr(regions, "_sync_data", os.fstat)


def piece_of_bits(dtype: str, shape: tuple[int, ...], bits: bytes) -> Piece:
    """A piece of any dtype, of given bytes."""

    def copy_to(target: Any) -> None:
        target[:] = np.frombuffer(bits, np.uint8)

    return Piece(dtype, shape, copy_to)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arrays=ARRAYS, seed=st.integers(0, 2**32))
def test_any_dtype_and_shape_comes_back(tmp_path: Path, arrays: list[Any], seed: int) -> None:
    """Random bytes of every dtype, also of those that numpy does not know: the same bytes, name and shape."""
    rng = np.random.default_rng(seed)
    stored = {
        f"{i}": (dtype, shape, rng.bytes(int(np.prod(shape)) * ITEM_BYTES[dtype]))
        for i, (dtype, shape) in enumerate(arrays)
    }
    given_pieces = {name: piece_of_bits(*parts) for name, parts in stored.items()}
    file = SlotFile(tmp_path / "slots", 1, slot_bytes_for(given_pieces, {}, spare=0))
    with file.writing() as writer:
        assert writer.put(5, 0.5, given_pieces, {})
    (snapshot,) = file.read()
    assert list(snapshot.names) == list(stored)
    for name, (dtype, shape, bits) in stored.items():
        entry, array = snapshot.entries[name], snapshot.array(name)
        assert (entry.dtype, entry.shape, array.shape) == (dtype, shape, shape)
        assert array.dtype == numpy_dtype(dtype)
        assert array.tobytes() == bits


def test_numpy_arrays_of_any_order() -> None:
    """Transposed, strided, of the other byte order: stored in C order, little-endian."""
    base = np.arange(24, dtype=">i4").reshape(4, 6)
    for array in (base, base.T, base[::2, ::3], np.float16(1.5), np.array([], np.complex64)):
        piece = Piece.of(np.asarray(array))
        target = np.zeros(piece.nbytes, np.uint8)
        piece.copy_to(target)
        plain = np.asarray(array)
        assert target.tobytes() == plain.astype(plain.dtype.newbyteorder("<")).tobytes()
    with pytest.raises(ValueError, match="an array of object cannot be stored"):
        Piece.of(np.array([{}]))


def test_meta_comes_back(tmp_path: Path) -> None:
    """JSON of any depth, big integers and non-finite numbers."""
    meta = {"rng": [2**200, -1], "lr": float("inf"), "x": {"y": [None, True, 1e-300, "\x1b[31m"]}}
    file = slot_file(tmp_path)
    with file.writing() as writer:
        assert writer.put(1, 0.0, {}, meta)
    assert file.read()[0].meta == meta


def test_the_newest_first_the_oldest_overwritten(tmp_path: Path) -> None:
    """Each slot in turn; the list is by age, not by step."""
    file = slot_file(tmp_path, 3)
    with file.writing() as writer:
        assert file.read() == ()
        for step, steps in ((1, [1]), (9, [9, 1]), (4, [4, 9, 1]), (5, [5, 4, 9]), (6, [6, 5, 4])):
            put_all(writer, step)
            assert file.steps() == steps
    for snapshot in file.read():
        assert_state(snapshot)


def test_without_the_check_the_list_is_the_same(tmp_path: Path) -> None:
    """Of a sound file; and it says what `nanscope info` wants to know."""
    file = slot_file(tmp_path)
    with file.writing() as writer:
        put_all(writer, 1, 2, 3)
    found = file.read(check=False)
    assert [(s.step, s.names, s.nbytes <= file.slot_bytes) for s in found] == [
        (3, ("a0", "a1", "a2"), True),
        (2, ("a0", "a1", "a2"), True),
    ]


def test_a_pinned_one_is_never_overwritten(tmp_path: Path) -> None:
    """Nor when all slots are pinned: then nothing is put any more."""
    file = slot_file(tmp_path, 3)
    with file.writing() as writer:
        put_all(writer, 1, 2)
        assert not writer.pin(7)
        assert writer.pin(1)
        put_all(writer, 3, 4, 5)
        assert file.steps() == [5, 4, 1]
        assert writer.pin(4)
        assert writer.pin(5)
        assert not put(writer, 6)
        assert writer.refused == 1
    assert [(s.step, s.pinned) for s in file.read()] == [(5, True), (4, True), (1, True)]
    assert_state(file.read()[2])


def test_one_slot(tmp_path: Path) -> None:
    """Has no other choice than to overwrite the only snapshot, unless it is pinned."""
    file = slot_file(tmp_path, 1)
    with file.writing() as writer:
        put_all(writer, 1, 2)
        assert file.steps() == [2]
        assert writer.pin(2)
        assert not put(writer, 3)
    assert file.steps() == [2]


def test_a_slot_of_the_said_size_is_enough(tmp_path: Path) -> None:
    """And one page less is not."""
    arrays = {**pieces(state(1)), **{f"n{i}": Piece.of(np.ones(i)) for i in range(100)}}
    size = slot_bytes_for(arrays, {"of": 1}, spare=0)
    for slot_bytes, fits in ((size, True), (size - HEADER_BYTES, False)):
        with SlotFile(tmp_path / "slots", 1, slot_bytes).writing() as writer, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert writer.put(1, 0.0, arrays, {"of": 1}) == fits


def test_a_reader_beside_the_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred readings while it writes as fast as it can: always one or two, always whole, never older."""
    monkeypatch.setattr(regions, "_sync_data", os.fdatasync)
    file = slot_file(tmp_path)
    stop = threading.Event()
    with file.writing() as writer:
        put_all(writer, 1, 2)

        def write() -> None:
            step = 3
            while not stop.is_set():
                step += put(writer, step)
                writer.wait()

        thread = threading.Thread(target=write)
        thread.start()
        newest = 0
        read = lost = 0
        try:
            while read < 100 or newest < 20:
                found = file.read()
                assert found
                assert found[0].step >= newest
                newest = found[0].step
                read += 1
                try:
                    assert_state(found[0])
                except RunFileError as error:
                    assert "no longer holds the snapshot" in str(error)  # noqa: PT017 - one of two good ends
                    lost += 1
        finally:
            stop.set()
            thread.join()
    assert lost < read
