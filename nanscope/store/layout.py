"""The sizes that fix a run file's layout: how long its blocks are, how many it has room for."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

from nanscope.store.pyramid import QUANTITIES

ROW_HEAD = struct.Struct("<Qqd")  # row number, step, seconds since the run began
ROW_HEAD_WORDS = ROW_HEAD.size // 4

DEFAULT_CAPACITY = 1 << 20
DEFAULT_BUDGET = 4 << 30

_RING_BLOCKS = 4
_RING_MEMORY = 16 << 20  # bytes that the ring may take in the trainer's memory
_LARGEST_BLOCK, _SMALLEST_BLOCK = 4096, 64
_LEAST_CAPACITY = 1 << 16  # room for a run that outlives its estimate; sparse, so it costs nothing
_MOST_ROWS = 1 << 27  # in one file; a longer run goes on in another one
_MOST_BLOCKS = 1 << 20
_LEAST_BLOCKS = 16  # that a file has room for, whatever the budget says
_BUCKETS = (64, 512)  # rows per bucket of the finer levels of the pyramid


@dataclass(frozen=True, slots=True)
class Layout:
    """The sizes of one run file.

    Attributes:
        columns: values in a row.
        block: rows in a block.
        ring: rows in the ring, a multiple of `block`.
        blocks: blocks that the file has room for.
        slots: blocks that it has room for with all their values; of the others it keeps the summaries.
        finest: rows per bucket of the finest summaries.
        snapshot_slots, snapshot_bytes: slots for snapshots of the state and their size.
    """

    columns: int
    block: int
    ring: int
    blocks: int
    slots: int
    finest: int = _BUCKETS[0]
    snapshot_slots: int = 0
    snapshot_bytes: int = 0

    @classmethod
    def for_run(cls, columns: int, capacity: int | None = None, budget: int = DEFAULT_BUDGET) -> Layout:
        """Sizes for a run of `capacity` steps that stay within `budget` bytes.

        Wide rows get short blocks, to bound the ring's memory. Summaries take at most half the budget: where
        they would take more they are made coarser, and then the file has room for fewer blocks.
        """
        block = _LARGEST_BLOCK
        while block > _SMALLEST_BLOCK and _RING_BLOCKS * block * row_words(columns) * 4 > _RING_MEMORY:
            block //= 2
        rows = max(DEFAULT_CAPACITY if capacity is None else min(capacity, _MOST_ROWS), _LEAST_CAPACITY)
        wanted = min(-(-rows // block), _MOST_BLOCKS)
        sizes = cls(columns, block, _RING_BLOCKS * block, wanted, wanted)
        while 2 * sizes.summary_bytes * wanted > budget and sizes.finest < block:
            sizes = replace(sizes, finest=next((b for b in _BUCKETS if sizes.finest < b < block), block))
        blocks = min(wanted, max(_LEAST_BLOCKS, budget // 2 // sizes.summary_bytes))
        slots = max(_LEAST_BLOCKS, (budget - blocks * sizes.summary_bytes) // sizes.value_bytes)
        return replace(sizes, blocks=blocks, slots=min(blocks, slots))

    @property
    def rows(self) -> int:
        """Rows that the file has room for."""
        return self.blocks * self.block

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in the ring."""
        return 4 * row_words(self.columns)

    @property
    def value_bytes(self) -> int:
        """Bytes of a block's values."""
        return 4 * self.columns * self.block

    @property
    def summary_bytes(self) -> int:
        """Bytes of what is kept of every block: its summaries, steps and times."""
        buckets = sum(self.block // rows for rows in self.levels.values())
        return 4 * self.columns * len(QUANTITIES) * buckets + 16 * self.block

    @property
    def levels(self) -> dict[str, int]:
        """The pyramid: dataset name and rows per bucket, fine to coarse."""
        fine = {f"pyramid/x{rows}": rows for rows in _BUCKETS if self.finest <= rows < self.block}
        return {**fine, "pyramid/block": self.block}


def row_words(columns: int) -> int:
    """Words of a row in the ring: head, values, checksum; even, so that the row number stays aligned."""
    return (ROW_HEAD_WORDS + columns + 2) // 2 * 2
