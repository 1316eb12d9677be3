"""What a run file holds and where: one HDF5 file whose layout is fixed when it is made.

Text and names are ordinary HDF5 strings, written once. Everything that grows while the training runs is a
contiguous, pre-allocated dataset, so that a row reaches the file by one `pwrite` at a known offset and HDF5's
own metadata never changes again: nothing to corrupt, no lock, no repair.

    /config /environment /model         JSON text
    /series/site, site_*                sites and their attributes; stat, stat_definition; scalar
    /series/column_site, column_stat    for each column its site (-1: a scalar) and its stat or scalar
    /series/blocks                      finished blocks of rows, series-major, shape (blocks, columns, rows)
    /series/step, time                  of every row in a block
    /pyramid/x64, x512, block           summaries of the blocks, see `pyramid.py`
    /live/head                          two slots, written in turn: how far the writer is
    /live/ring                          the last rows, one after the other, each with its checksum
    /live/index                         for each block its number of rows (0: never written) and its checksum
    /live/events                        JSON lines, each with its checksum
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import NamedTuple

from nanscope.store.pyramid import QUANTITIES

FORMAT = "nanscope-run"
MAJOR, MINOR = 1, 0

STATES = ("live", "finished", "interrupted", "failed")
"""States a writer can leave in the head, by their code; `killed` is the reader's conclusion."""

ROW_HEAD = struct.Struct("<Qqd")  # row number, step, seconds since the run began
ROW_HEAD_WORDS = ROW_HEAD.size // 4

HEAD_SLOT = 512  # bytes: a disk sector, so that a power cut cannot tear both slots at once
EVENT_BYTES = 8 << 20
EVENT_BYTES_RESERVED = 1 << 20  # of these, written at creation: a disk that fills up later still takes them

_RING_BLOCKS = 4
_RING_MEMORY = 16 << 20  # bytes that the ring may take in the trainer's memory
_LARGEST_BLOCK, _SMALLEST_BLOCK = 4096, 64
_LEAST_CAPACITY = 1 << 16  # room for a run that outlives its estimate; sparse, so it costs nothing
DEFAULT_CAPACITY = 1 << 20
_ROW_MODE_COLUMNS = 1024


@dataclass(frozen=True, slots=True)
class Layout:
    """The sizes that fix a run file's layout.

    Attributes:
        columns: values in a row.
        block: rows in a block.
        ring: rows in the ring, a multiple of `block`.
        blocks: blocks that the file has room for.
    """

    columns: int
    block: int
    ring: int
    blocks: int

    @classmethod
    def for_run(cls, columns: int, capacity: int | None = None) -> Layout:
        """Sizes for a run of `capacity` steps; wide rows get short blocks, to bound the ring's memory."""
        block = _LARGEST_BLOCK
        while block > _SMALLEST_BLOCK and _RING_BLOCKS * block * row_words(columns) * 4 > _RING_MEMORY:
            block //= 2
        rows = max(DEFAULT_CAPACITY if capacity is None else capacity, _LEAST_CAPACITY)
        return cls(columns, block, _RING_BLOCKS * block, -(-rows // block))

    @property
    def row_mode(self) -> bool:
        """Whether rows are written at once; wide rows are left to the writer's thread."""
        return self.columns <= _ROW_MODE_COLUMNS

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in the ring."""
        return 4 * row_words(self.columns)

    @property
    def levels(self) -> dict[str, int]:
        """The pyramid: dataset name and rows per bucket, fine to coarse."""
        fine = {f"pyramid/x{rows}": rows for rows in (64, 512) if rows < self.block}
        return {**fine, "pyramid/block": self.block}


def row_words(columns: int) -> int:
    """Words of a row in the ring: head, values, checksum; even, so that the row number stays aligned."""
    return (ROW_HEAD_WORDS + columns + 2) // 2 * 2


class Array(NamedTuple):
    """A numeric dataset: its name, shape, type (as numpy spells it), unit and meaning."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    unit: str
    meaning: str

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        size = int(self.dtype[-1])
        for length in self.shape:
            size *= length
        return size


def arrays(layout: Layout) -> tuple[Array, ...]:
    """The pre-allocated datasets, in file order: what must survive a full disk comes first."""
    nb, columns, block = layout.blocks, layout.columns, layout.block
    ring = (layout.ring, row_words(columns))
    summary = f"per column: {', '.join(QUANTITIES)} of a bucket of"
    return (
        Array(
            "live/head",
            (2, HEAD_SLOT),
            "<u1",
            "byte",
            "two slots written in turn, the newer valid one counts",
        ),
        Array("live/events", (EVENT_BYTES,), "<u1", "byte", "lines of CRC-32 in hex, space, JSON"),
        Array("live/ring", ring, "<u4", "word", "u8 row, i8 step, f8 time, f4 values, last word CRC-32"),
        Array("live/index", (nb, 2), "<u4", "row", "rows in the block (0: never written), CRC-32"),
        Array("series/step", (nb * block,), "<i8", "step", "step of each row in the blocks"),
        Array("series/time", (nb * block,), "<f8", "s", "seconds since the run began"),
        *(
            Array(name, (nb, columns, len(QUANTITIES), block // rows), "<f4", "1", f"{summary} {rows} rows")
            for name, rows in layout.levels.items()
        ),
        Array("series/blocks", (nb, columns, block), "<f4", "1", "values of the finished blocks"),
    )


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
    state: int = 0


_HEAD = struct.Struct("<6Qd2I")
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
