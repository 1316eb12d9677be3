"""What a run file holds and where: one HDF5 file whose layout is fixed when it is made.

Text and names are ordinary HDF5 strings, written once. Everything that grows while the training runs is a
contiguous, pre-allocated dataset, so that a row reaches the file by one `pwrite` at a known offset and HDF5's
own metadata never changes again: nothing to corrupt, no lock, no repair.

    root attributes                     format, format_version, nanscope_version, host, created, run_id, part,
                                        layout ("live" or "compact")
    /config /env /model                 JSON text
    /checksums                          JSON text: CRC-32 of every text and small table
    /series/site, site_*                sites and their attributes; stat, stat_definition; scalar
    /columns/site, stat                 of each column of a row: its site (-1: a scalar), its stat or scalar
    /series/blocks                      finished blocks of rows, series-major, shape (slots, columns, rows)
    /series/step, time                  of every row in a block
    /pyramid/x64, x512, block           summaries of the blocks, see `pyramid.py`
    /live/head                          two slots, written in turn: how far the writer is, see `head.py`
    /live/ring                          the last rows, one after the other, each with its checksum
    /live/amended                       the newest row, while it is written again
    /live/index                         what is there of each block, see `blocks.py`
    /live/events                        JSON lines, each with its checksum
    /snapshots/slot0, slot1 ...         states of the training, see `snapshots/slots.py`

A compacted file (`compaction/file.py`) holds the same in compressed chunks and nothing below /live.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from nanscope.store.head import HEAD_SLOT
from nanscope.store.layout import Layout, row_words
from nanscope.store.pyramid import QUANTITIES

FORMAT = "nanscope-run"
MAJOR, MINOR = 1, 0

EVENT_BYTES = 8 << 20
EVENT_BYTES_RESERVED = 1 << 20  # of these, written at creation: a disk that fills up later still takes them
INDEX_WORDS = 4


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
        return int(self.dtype[-1]) * math.prod(self.shape)


def arrays(layout: Layout) -> tuple[Array, ...]:
    """The pre-allocated datasets, in file order: what must survive a full disk comes first."""
    return (*_live(layout), *_blocks(layout), *_snapshots(layout))


def _live(layout: Layout) -> tuple[Array, ...]:
    ring = (layout.ring, row_words(layout.columns))
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
        Array(
            "live/amended", ring[1:], "<u4", "word", "the newest row, while it is being amended in the ring"
        ),
        Array(
            "live/index",
            (layout.blocks, INDEX_WORDS),
            "<u4",
            "1",
            "per block: rows (0: never written), CRC-32 of its steps, times and summaries, 1 + its place in "
            "series/blocks (0: thinned), CRC-32 of its values",
        ),
    )


def _blocks(layout: Layout) -> tuple[Array, ...]:
    nb, columns, block = layout.blocks, layout.columns, layout.block
    summary = f"per column: {', '.join(QUANTITIES)} of a bucket of"
    values = (layout.slots, columns, block)
    return (
        Array("series/step", (nb * block,), "<i8", "step", "step of each row in the blocks"),
        Array("series/time", (nb * block,), "<f8", "s", "seconds since the run began"),
        *(
            Array(name, (nb, columns, len(QUANTITIES), block // rows), "<f4", "1", f"{summary} {rows} rows")
            for name, rows in layout.levels.items()
        ),
        Array("series/blocks", values, "<f4", "1", "values of the finished blocks that are kept whole"),
    )


def _snapshots(layout: Layout) -> tuple[Array, ...]:
    return tuple(
        Array(f"snapshots/slot{i}", (layout.snapshot_bytes,), "<u1", "byte", "one state of the training")
        for i in range(layout.snapshot_slots)
    )
