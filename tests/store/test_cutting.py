"""The simulated power cut: what a sync made safe is there, of the rest some versions of some pages."""

from pathlib import Path
from random import Random

import pytest

from nanscope.store.head import HEAD_SLOT, Head, pack_head
from nanscope.store.image import Identity, build_image
from tests.store.cutting import Call, durable, write_image
from tests.store.files import layout
from tests.store.recorded import recorded_header

FILE, OTHER = 1, 2


def write(offset: int, data: bytes, inode: int = FILE) -> Call:
    """A write of the log."""
    return Call("write", inode, offset, data)


def event(what: str, inode: int = FILE) -> Call:
    """A sync, its end, or a link."""
    return Call(what, inode, 0, b"run.h5")


def images(folder: Path, calls: list[Call], count: int = 200) -> set[bytes]:
    """What many power cuts leave."""
    left = set()
    for seed in range(count):
        write_image(folder / "image", calls, FILE, Random(seed))
        left.add((folder / "image").read_bytes())
    return left


def test_what_is_safe() -> None:
    """Only the calls before the beginning of a sync that ended, of the same file."""
    calls = [write(0, b"a"), event("sync"), write(1, b"b"), event("synced"), event("sync")]
    assert durable(calls[:3], FILE) == 0
    assert durable(calls, FILE) == 1
    assert durable([*calls, event("synced", OTHER)], FILE) == 1
    assert durable([*calls, event("synced")], FILE) == 4


def test_a_synced_write_is_always_there(tmp_path: Path) -> None:
    """However the pages written later turn out."""
    calls = [write(0, b"a" * 2000), event("sync"), event("synced"), write(1024, b"b" * 100)]
    left = images(tmp_path, calls)
    assert {image[:1024] for image in left} == {b"a" * 1024}
    assert {image[1024:1124] for image in left} == {b"a" * 100, b"b" * 100}


def test_pages_are_lost_one_by_one(tmp_path: Path) -> None:
    """A write on three pages may be torn in every way; a page has the first so many of its writes."""
    calls = [write(0, bytes(1536)), event("sync"), event("synced"), write(0, b"b" * 1536), write(0, b"c")]
    left = {tuple(image[i : i + 1] for i in (0, 512, 1024)) for image in images(tmp_path, calls)}
    assert {second for _, second, _ in left} == {b"\0", b"b"} == {third for *_, third in left}
    assert {first for first, *_ in left} == {b"\0", b"b", b"c"}
    assert (b"c", b"\0", b"b") in left


def test_without_a_sync_there_may_be_nothing(tmp_path: Path) -> None:
    """Not even the size of the file."""
    left = images(tmp_path, [Call("truncate", FILE, 100, b""), write(0, b"x")])
    assert {len(image) for image in left} == {0, 1, 100}


@pytest.mark.parametrize("sites", range(5, 400, 8))
def test_a_head_is_one_sector(sites: int) -> None:
    """A disk writes a sector whole or not at all: no cut tears a head that lies in one."""
    header = recorded_header(sites)
    image = build_image(header, layout(len(header.columns)), Identity("0" * 32))
    begin = image.offsets["live/head"]
    for start in (begin, begin + HEAD_SLOT):
        assert start // 512 == (start + len(pack_head(Head())) - 1) // 512
