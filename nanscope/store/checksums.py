"""Checksums of the names, settings and small tables of a run file, kept in it as JSON under /checksums.

HDF5 has checksums of its own structure, but none of texts and numbers.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from nanscope.store.inventory import Inventory, Stored
from nanscope.store.journal import to_json

TABLE_BYTES = 64 << 20  # the largest table that is read to be checked


def checksum(value: Any) -> int:
    """CRC-32 of a text dataset (a list of strings) or of a numeric one (its bytes)."""
    return zlib.crc32(value if isinstance(value, bytes) else to_json(value).encode("ascii"))


def wrong_checksums(inventory: Inventory, read: Callable[[int, int], bytes]) -> Iterator[str]:
    """Names of the datasets that are not as they were written.

    Args:
        inventory: what is in the file.
        read: gives so many bytes (second) from an offset (first) in the file.

    Raises:
        KeyError, ValueError, TypeError, AttributeError: there are no checksums, or of what is not there.
    """
    for name, crc in json.loads(inventory.texts["checksums"][0]).items():
        stored = inventory.arrays.get(name)
        if checksum(inventory.texts[name] if stored is None else _bytes(stored, read)) != crc:
            yield name


def _bytes(stored: Stored, read: Callable[[int, int], bytes]) -> bytes:
    if stored.offset is None or stored.nbytes > TABLE_BYTES:
        raise ValueError("a table in chunks, or too large")
    return read(stored.offset, stored.nbytes) if stored.nbytes else b""
