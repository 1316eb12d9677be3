"""The head of a live run file: how far the writer is, in two slots that are written in turn."""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

HEAD_SLOT = 512  # bytes: a disk sector, so that a power cut cannot tear both slots at once

STATES = ("live", "finished", "interrupted", "failed", "continued")
"""States a writer can leave in the head, by their code; `killed` is the reader's conclusion.

`continued`: the run goes on in the next part.
"""


class Head(NamedTuple):
    """How far the writer is.

    Attributes:
        sequence: grows by one with each head; the larger of two valid slots counts.
        rows: rows written to the ring so far.
        blocks: blocks finished or given up.
        durable_blocks: of these, known to be on the disk itself.
        lost_rows: rows that found no room.
        lost_events: events that found no room.
        heartbeat: seconds since the epoch.
        pid: the writing process.
        started: when that process began, in the kernel's ticks; 0 where it cannot be told.
        state: index into STATES.
    """

    sequence: int = 0
    rows: int = 0
    blocks: int = 0
    durable_blocks: int = 0
    lost_rows: int = 0
    lost_events: int = 0
    heartbeat: float = 0.0
    pid: int = 0
    started: int = 0
    state: int = 0


_HEAD = struct.Struct("<6QdQQI")
_CRC = struct.Struct("<I")


def pack_head(head: Head) -> bytes:
    """Head as the bytes of its slot, checksum last."""
    data = _HEAD.pack(*head)
    return data + _CRC.pack(zlib.crc32(data))


def newest_head(slots: bytes) -> Head | None:
    """The newer valid head of the two slots, None when neither is valid."""
    heads = [_unpack_head(slots[start : start + HEAD_SLOT]) for start in (0, HEAD_SLOT)]
    return max((head for head in heads if head is not None), default=None)


def _unpack_head(slot: bytes) -> Head | None:
    data, crc = slot[: _HEAD.size], slot[_HEAD.size : _HEAD.size + _CRC.size]
    if _CRC.pack(zlib.crc32(data)) != crc:
        return None
    head = Head(*_HEAD.unpack(data))
    return head if head.state < len(STATES) else None
