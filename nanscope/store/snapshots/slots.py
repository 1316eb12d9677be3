"""One slot for a snapshot: how the bytes of a state lie in it, and what must hold before they are believed.

    0      header: magic, version, entries, sequence, step, time, sizes, CRC-32 of the table, its own CRC-32
    2048   pin: says that the snapshot of this sequence is kept for good
    4096   data: the entries one after the other, each at a multiple of 64
    then   table: JSON with `entries` (name, dtype, shape, offset, bytes) and `meta`, as its writer gave it
    then   checksums: one CRC-32 per entry; the CRC-32 of the table covers them, too

The header is written last, when everything else is on the disk itself, and the old one is zeroed before
anything else: at every moment a slot holds a whole snapshot or says that it holds none. The checksums find
out what a disk did that lied about its order of writing.

A dtype is stored by its name, the elements as their bits: a program that does not know `float8_e5m2` still
reads the file. Everything is little-endian.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

HEADER_BYTES, PIN_OFFSET, ALIGNMENT = 4096, 2048, 64
CRC_BYTES = 4
TABLE_LIMIT = 8 << 20  # bytes; JSON of this size takes up to 30 times as much memory when it is hostile

_BY_SIZE = {
    1: "bool uint8 int8 uint1 uint2 uint3 uint4 uint5 uint6 uint7 int1 int2 int3 int4 int5 int6 int7 "
    "bits8 bits1x8 bits2x4 bits4x2 float4_e2m1fn_x2 float8_e4m3fn float8_e4m3fnuz float8_e5m2 "
    "float8_e5m2fnuz float8_e8m0fnu",
    2: "uint16 int16 float16 bfloat16 bits16",
    4: "uint32 int32 float32 complex32 bcomplex32",
    8: "uint64 int64 float64 complex64",
    16: "complex128",
}
ITEM_BYTES: Mapping[str, int] = {name: size for size, names in _BY_SIZE.items() for name in names.split()}
"""Bytes of an element, by the dtype's name in torch."""

_IN_NUMPY = (
    "bool uint8 int8 uint16 int16 uint32 int32 uint64 int64 float16 float32 float64 complex64 complex128"
)
_NUMPY = frozenset(_IN_NUMPY.split())

_MAGIC, _PIN_MAGIC, _VERSION = b"\x93NSSNAP\n", b"\x93NSPIN\r\n", 1
_HEAD = struct.Struct("<8sIIQqdQQI")
_PIN = struct.Struct("<8sQ")
_CRC = struct.Struct("<I")

_MOST_DIMENSIONS, _LONGEST_NAME = 64, 1000


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The numpy type of the elements: its own where numpy knows it, else unsigned integers."""
    dtype = np.dtype(name if name in _NUMPY else f"u{ITEM_BYTES[name]}")
    return dtype.newbyteorder("<")


def aligned(size: int) -> int:
    """Size, rounded up to where the next entry may begin."""
    return -(-size // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True, slots=True)
class Piece:
    """One array to store.

    Attributes:
        dtype: a name in `ITEM_BYTES`.
        shape: of the array.
        copy_to: fills the given bytes, so many as the array has, with its elements in C order.
    """

    dtype: str
    shape: tuple[int, ...]
    copy_to: Callable[[Bytes], None]

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]

    @classmethod
    def of(cls, array: NDArray[Any]) -> Self:
        """A numpy array.

        Raises:
            ValueError: it holds something else than numbers (objects, strings, dates).
        """
        if array.dtype.name not in _NUMPY:
            raise ValueError(f"an array of {array.dtype} cannot be stored")

        def copy_to(target: Bytes) -> None:
            target.view(array.dtype.newbyteorder("<")).reshape(array.shape)[...] = array

        return cls(array.dtype.name, array.shape, copy_to)


class Entry(NamedTuple):
    """One stored array: `offset` counts from the beginning of the data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class Head(NamedTuple):
    """The header of a valid slot; of two snapshots the one with the larger sequence is newer."""

    entries: int
    sequence: int
    step: int
    time: float
    data_bytes: int
    table_bytes: int
    table_crc: int

    @property
    def nbytes(self) -> int:
        """Bytes of the slot that the snapshot takes."""
        return HEADER_BYTES + self.data_bytes + self.table_bytes + CRC_BYTES * self.entries


def place(pieces: Mapping[str, Piece]) -> tuple[list[Entry], int]:
    """Where each piece goes, and the bytes of all of them."""
    entries, offset = [], 0
    for name, piece in pieces.items():
        entries.append(Entry(name, piece.dtype, piece.shape, offset, piece.nbytes))
        offset = aligned(offset + piece.nbytes)
    return entries, offset


def pack_table(entries: Sequence[Entry], meta: Mapping[str, Any]) -> bytes:
    """The table as bytes, padded so that the checksums after it are aligned.

    Raises:
        TypeError, ValueError, RecursionError: `meta` is not JSON.
    """
    text = json.dumps({"entries": entries, "meta": meta}, separators=(",", ":")).encode("ascii")
    return text + b" " * (aligned(len(text)) - len(text))


def slot_bytes_for(pieces: Mapping[str, Piece], meta: Mapping[str, Any], spare: float = 0.25) -> int:
    """Bytes that a slot needs for a state, with so much to spare for what is to come; a multiple of 4,096."""
    entries, data_bytes = place(pieces)
    needed = data_bytes + len(pack_table(entries, meta)) + CRC_BYTES * len(entries)
    return HEADER_BYTES * (1 + math.ceil(needed * (1 + spare) / HEADER_BYTES))


def pack_head(head: Head) -> bytes:
    """Header as bytes, its checksum last."""
    data = _HEAD.pack(_MAGIC, _VERSION, *head)
    return data + _CRC.pack(zlib.crc32(data))


def unpack_head(page: bytes) -> Head | None:
    """Header from the first page of a slot; None when it holds no whole snapshot."""
    data, crc = page[: _HEAD.size], page[_HEAD.size : _HEAD.size + _CRC.size]
    if _CRC.pack(zlib.crc32(data)) != crc:
        return None
    magic, version, *fields = _HEAD.unpack(data)
    return Head(*fields) if (magic, version) == (_MAGIC, _VERSION) else None


def pack_pin(sequence: int) -> bytes:
    """What keeps the snapshot of this sequence for good."""
    data = _PIN.pack(_PIN_MAGIC, sequence)
    return data + _CRC.pack(zlib.crc32(data))


def is_pinned(page: bytes, sequence: int) -> bool:
    """Whether the first page of a slot keeps the snapshot of this sequence."""
    expected = pack_pin(sequence)
    return page[PIN_OFFSET : PIN_OFFSET + len(expected)] == expected


def parse_table(text: bytes, head: Head) -> tuple[tuple[Entry, ...], dict[str, Any]]:
    """Entries and meta of a table whose checksum was right, which does not make it true.

    Raises:
        ValueError: it is not as this page says; the message completes "its table ...".
    """
    try:
        table = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("is no JSON") from None
    match table:
        case {"entries": list(rows), "meta": dict(meta)} if len(rows) == head.entries:
            return _entries(rows, head.data_bytes), meta
    raise ValueError("lacks entries or meta")


def _entries(rows: list[Any], data_bytes: int) -> tuple[Entry, ...]:
    entries, end = [], 0
    for row in rows:
        entry = _entry(row)
        # one after the other: entries that overlap could make reading them all arbitrarily long
        if entry.offset % ALIGNMENT or not end <= entry.offset <= data_bytes - entry.nbytes:
            raise ValueError("has an entry outside of its place")
        end = entry.offset + entry.nbytes
        entries.append(entry)
    if len({entry.name for entry in entries}) < len(entries):
        raise ValueError("has two entries of one name")
    return tuple(entries)


def _entry(row: Any) -> Entry:
    match row:
        case [str(name), str(dtype), list(shape), int(offset), int(nbytes)] if dtype in ITEM_BYTES:
            if len(name) > _LONGEST_NAME or not name.isprintable():
                raise ValueError("has an entry with an odd name")
            if not _is_shape(shape):
                raise ValueError("has an entry with an odd shape")
            if offset < 0 or nbytes != math.prod(shape) * ITEM_BYTES[dtype]:
                raise ValueError("has an entry whose size is not that of its elements")
            return Entry(name, dtype, tuple(shape), offset, nbytes)
    raise ValueError("has an entry that describes no array of a known type")


def _is_shape(shape: list[Any]) -> bool:
    if len(shape) > _MOST_DIMENSIONS or not all(type(n) is int and n >= 0 for n in shape):
        return False
    elements: int = math.prod(max(n, 1) for n in shape)
    return elements < 2**56  # numpy refuses more even where one length is 0
