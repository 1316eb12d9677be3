"""HDF5's own checksums, made anew: so that damage gets past them and reaches what reads the metadata.

The checksum is Jenkins' lookup3 with initial value 0, over everything before it ("Disk Format:
Checksums" of the HDF5 file format specification); sealed here are the superblock (version 2) and object
headers (version 2).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_WORD = 0xFFFFFFFF
_SUPERBLOCK = 48


def _rotated(value: int, by: int) -> int:
    return (value << by | value >> (32 - by)) & _WORD


def lookup3(data: bytes) -> int:
    """Jenkins' `hashlittle` of the bytes."""
    a = b = c = (0xDEADBEEF + len(data)) & _WORD
    blocks = max(0, (len(data) - 1) // 12)
    for block in range(blocks):
        x, y, z = struct.unpack_from("<3I", data, 12 * block)
        a, b, c = (a + x) & _WORD, (b + y) & _WORD, (c + z) & _WORD
        a, b, c = _mixed(a, b, c)
    if not data:
        return c
    x, y, z = struct.unpack("<3I", data[12 * blocks :].ljust(12, b"\0"))
    return _finished((a + x) & _WORD, (b + y) & _WORD, (c + z) & _WORD)


def _mixed(a: int, b: int, c: int) -> tuple[int, int, int]:
    for by in (4, 6, 8, 16, 19, 4):
        a = (a - c & _WORD) ^ _rotated(c, by)
        c = c + b & _WORD
        a, b, c = b, c, a
    return a, b, c


def _finished(a: int, b: int, c: int) -> int:
    for by in (14, 11, 25, 16, 4, 14, 24):
        c = (c ^ b) - _rotated(b, by) & _WORD
        a, b, c = b, c, a
    return b


def sealed_blocks(data: bytes) -> Iterator[tuple[int, int]]:
    """First byte and place of the checksum of each block that can be sealed, superblock first."""
    yield 0, _SUPERBLOCK - 4
    start = data.find(b"OHDR\x02")
    while start >= 0:
        flags = data[start + 5]
        at = start + 6 + 16 * bool(flags & 0x20) + 4 * bool(flags & 0x10)
        width = 1 << (flags & 3)
        yield start, at + width + int.from_bytes(data[at : at + width], "little")
        start = data.find(b"OHDR\x02", start + 4)


def seal(data: bytearray, start: int, place: int) -> None:
    """Make the checksum of one block right."""
    struct.pack_into("<I", data, place, lookup3(bytes(data[start:place])))
