"""Run files that are made to do harm byte by byte, where HDF5's own calls would refuse to.

A craft is `(path) -> None`; `RAW_CRAFTS` names it and the words of the refusal.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import h5py

from nanscope.run import Column, Header
from nanscope.store.image import Identity, build_image
from nanscope.store.layout import Layout
from nanscope.store.publish import publish
from tests.store.crafts import sound
from tests.store.sealing import seal, sealed_blocks

RawCraft = Callable[[Path], None]
_SUPERBLOCK_END, _SUPERBLOCK_ROOT = 28, 36


def build_raw(name: str, folder: Path) -> Path:
    """The crafted file of this name."""
    path = folder / f"{name.replace(' ', '-')}.h5"
    sound(path)
    RAW_CRAFTS[name][0](path)
    return path


def _resealed(path: Path, old: bytes, new: bytes) -> None:
    """Replace bytes that stand once in the file's metadata, and make the checksum right."""
    data = bytearray(path.read_bytes())
    blocks = [(start, place) for start, place in sealed_blocks(bytes(data)) if old in data[start:place]]
    ((start, place),) = blocks
    at = data.index(old, start)
    data[at : at + len(old)] = new
    seal(data, start, place)
    path.write_bytes(data)


def _moved(place: Callable[[int, int], int]) -> RawCraft:
    """Say that /series/blocks begins somewhere else; `place` takes its offset and the file's size."""

    def craft(path: Path) -> None:
        with h5py.File(path) as file:
            dataset = file["series/blocks"]
            offset, size = dataset.id.get_offset(), dataset.nbytes
        where = place(offset, path.stat().st_size)
        _resealed(path, struct.pack("<QQ", offset, size), struct.pack("<QQ", where, size))

    return craft


def _superblock(field: int, value: int) -> RawCraft:
    def craft(path: Path) -> None:
        data = bytearray(path.read_bytes())
        struct.pack_into("<Q", data, field, value)
        seal(data, *next(sealed_blocks(bytes(data))))
        path.write_bytes(data)

    return craft


def _repeated_text(path: Path) -> None:
    """A thousand strings that are all the same megabyte."""
    with h5py.File(path, "r+") as file:
        file.create_dataset("extra", (1000,), h5py.string_dtype())
        file["extra"][0] = "x" * 10**6
        offset = file["extra"].id.get_offset()
    with path.open("r+b") as raw:
        raw.seek(offset)
        first = raw.read(16)
        raw.seek(offset)
        raw.write(first * 1000)


def _long_string(path: Path) -> None:
    """A string that says it has 4 GiB."""
    with h5py.File(path) as file:
        offset = file["config"].id.get_offset()
    with path.open("r+b") as raw:
        raw.seek(offset)
        raw.write(struct.pack("<I", 2**32 - 1))


def _overwritten(data: bytes, offset: int = 0) -> RawCraft:
    def craft(path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    return craft


def _content(data: bytes) -> RawCraft:
    return lambda path: path.write_bytes(data) and None


def _keras(path: Path) -> None:
    path.unlink()
    with h5py.File(path, "w") as file:
        file.attrs.update(keras_version="2.15.0", backend="tensorflow", model_config="{}")
        weights = file.create_group("model_weights/dense/dense")
        weights["kernel:0"], weights["bias:0"] = [[1.0, 2.0]], [0.5]


def _wide(path: Path) -> None:
    """A sparse file whose ring would take gigabytes of memory."""
    path.unlink()
    columns = tuple(Column(None, f"s{i}") for i in range(2000))
    image = build_image(Header(columns), Layout(2000, 1 << 16, 1 << 18, 4, 4), Identity("0" * 32))
    os.close(publish(path, image, ()))


RAW_CRAFTS: dict[str, tuple[RawCraft, str]] = {
    "blocks beyond the end": (_moved(lambda _, size: size - 8), "is damaged or cut short"),
    "blocks far beyond": (_moved(lambda *_: 2**62), "is damaged or cut short"),
    "blocks at the last address": (_moved(lambda *_: 2**64 - 16), "is damaged or cut short"),
    "end before the end": (_superblock(_SUPERBLOCK_END, 2048), "is damaged or cut short"),
    "end beyond the end": (_superblock(_SUPERBLOCK_END, 2**50), "is damaged or cut short"),
    "root in the superblock": (_superblock(_SUPERBLOCK_ROOT, 0), "is damaged or cut short"),
    "root nowhere": (_superblock(_SUPERBLOCK_ROOT, 2**64 - 1), "is damaged or cut short"),
    "repeated text": (_repeated_text, "text extra claims 1,000,000,000 bytes"),
    "long string": (_long_string, "text config claims 4,294,967,295 bytes"),
    "swapped signature": (_overwritten(b"\x89HDF\n\r\x1a\n"), "is not an HDF5 file"),
    "signature at 512": (
        lambda path: path.write_bytes(bytes(512) + path.read_bytes()) and None,
        "not an HDF5",
    ),
    "only a signature": (_content(b"\x89HDF\r\n\x1a\n"), "is damaged or cut short"),
    "text": (_content(b"step,loss\n0,1.0\n"), "is not an HDF5 file: give the name of a run file"),
    "empty": (_content(b""), "is empty, so it is not an HDF5 file"),
    "a model of Keras": (_keras, "is an HDF5 file but no nanscope run file"),
    "a ring of gigabytes": (_wide, "its newest rows take 2,105,540,608 bytes"),
    "nothing but zeros behind": (lambda path: os.truncate(path, 4096), "is damaged or cut short"),
}
