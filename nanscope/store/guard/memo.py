"""Inventories of files that were opened before: what does not change is asked for once.

A run that is followed is opened once a second, and its metadata never changes. What the guarded child says of
a file follows from the file's size and from the bytes that it read (`evidence.py`). So it is kept together
with the places of these bytes and their digest; where the same places of the same file still hold the same,
the child would say the same again. A file that mixes metadata and numbers could get an answer that was true
of it before: that does no harm, for an inventory is held against the file each time, whoever it is from.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from nanscope.store.guard.evidence import NO_EVIDENCE, Evidence, digest
from nanscope.store.guard.watched import read_at
from nanscope.store.inventory import Inventory

_FILES = 32
_EXTENTS, _BYTES = 20_000, 16 << 20  # beyond it, asking again is as cheap as checking

_Key = tuple[int, int, int]


@dataclass(frozen=True)
class _Known:
    inventory: Inventory
    evidence: Evidence


_known: dict[_Key, _Known] = {}


def recall(descriptor: int) -> Inventory | None:
    """What is known of an open file, if it still holds."""
    known = _known.get(_key(descriptor))
    if known is None:
        return None
    pieces = (read_at(descriptor, stop - start, start) for start, stop in known.evidence.extents)
    return known.inventory if digest(pieces) == known.evidence.digest else None


def remember(descriptor: int, inventory: Inventory, evidence: Evidence) -> None:
    """Keep what the child said of an open file, if it can be checked."""
    size = sum(stop - start for start, stop in evidence.extents)
    if evidence == NO_EVIDENCE or len(evidence.extents) > _EXTENTS or size > _BYTES:
        return
    if len(_known) >= _FILES:
        _known.clear()
    _known[_key(descriptor)] = _Known(inventory, evidence)


def _key(descriptor: int) -> _Key:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino, status.st_size
