"""What is known of a file is used again only while the file still says the same."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import h5py
import pytest

from nanscope.errors import RunFileError
from nanscope.store.guard import children, memo
from nanscope.store.guard.evidence import NO_EVIDENCE, Evidence
from nanscope.store.guard.sandbox import take_inventory
from nanscope.store.guard.survey import survey
from nanscope.store.guard.watched import WatchedFile
from nanscope.store.inventory import Inventory
from tests.store.crafts import sound

pytestmark = pytest.mark.real_child


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A sound run file that nothing is known of."""
    memo._known.clear()
    sound(tmp_path / "run.h5")
    return tmp_path / "run.h5"


def asked(path: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether taking the inventory starts a child."""

    def start(_: int) -> NoReturn:
        raise BlockingIOError

    descriptor = os.open(path, os.O_RDONLY)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(children, "_start", start)
            take_inventory(descriptor, "run.h5")
    except RunFileError:
        return True
    finally:
        os.close(descriptor)
    return False


def inventory(path: Path) -> Inventory:
    """The inventory of a file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return take_inventory(descriptor, "run.h5")
    finally:
        os.close(descriptor)


def test_a_file_that_is_opened_again_costs_no_child(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And gives the same."""
    assert asked(path, monkeypatch)
    first = inventory(path)
    assert not asked(path, monkeypatch)
    assert inventory(path) is first


def test_rows_that_come_change_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data of a live run is not what the inventory is made of: every byte outside of it may change."""
    first = inventory(path)
    with path.open("r+b") as file:
        for name in ("live/head", "live/ring", "live/events", "live/index", "series/blocks", "pyramid/block"):
            file.seek(first.arrays[name].offset or 0)
            file.write(b"\xa5" * first.arrays[name].nbytes)
    assert not asked(path, monkeypatch)


def test_every_byte_that_was_read_counts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One bit of any piece that the inventory was made of: it is asked again."""
    inventory(path)
    (known,) = memo._known.values()
    assert sum(stop - start for start, stop in known.evidence.extents) > 5000
    with path.open("r+b") as file:
        for start, stop in known.evidence.extents:
            at = (start + stop) // 2
            file.seek(at)
            old = file.read(1)
            for byte in (bytes([old[0] ^ 4]), old):
                file.seek(at)
                file.write(byte)
                file.flush()
                assert asked(path, monkeypatch) == (byte != old)


def test_another_file_of_the_name_is_another_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy, and the same file with a byte more."""
    inventory(path)
    copy = path.with_name("copy.h5")
    shutil.copy(path, copy)
    assert asked(copy, monkeypatch)
    with path.open("ab") as file:
        file.write(b"x")
    assert asked(path, monkeypatch)


def test_what_is_refused_is_asked_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only inventories are kept."""
    with h5py.File(path, "r+") as file:
        file["extra"] = h5py.SoftLink("/config")
    with pytest.raises(RunFileError):
        inventory(path)
    assert asked(path, monkeypatch)


def test_memory_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither many files nor a file with many pieces fill it."""
    descriptor = os.open(path, os.O_RDONLY)
    found = survey(WatchedFile(descriptor))
    memo.remember(descriptor, found, Evidence(((0, 1),) * 30_000, "00"))
    memo.remember(descriptor, found, Evidence(((0, 1 << 40),), "00"))
    memo.remember(descriptor, found, NO_EVIDENCE)
    assert memo._known == {}
    keys = iter(range(1000))
    monkeypatch.setattr(memo, "_key", lambda _: (0, next(keys), 0))
    for _ in range(100):
        memo.remember(descriptor, found, Evidence(((0, 1),), "00"))
    assert 0 < len(memo._known) <= 32
    os.close(descriptor)
    memo._known.clear()
