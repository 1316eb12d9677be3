"""Sizes of a run file from the shapes in it, within the bounds of what a reader allocates by them."""

from __future__ import annotations

from collections.abc import Mapping

from nanscope.store.guard.refusal import check
from nanscope.store.inventory import Stored
from nanscope.store.layout import Layout, row_words
from nanscope.store.schema import arrays

COLUMNS, ROWS, BLOCKS = 1_000_000, 1 << 28, 1 << 20
SHORTEST_BLOCK, LONGEST_BLOCK = 16, 1 << 16
RING_ROWS, RING_BYTES = 1 << 18, 256 << 20
DEFLATE_RATIO = 1032  # the most that deflate can make of a byte (zlib's technical details)


def live_layout(found: Mapping[str, Stored]) -> Layout:
    """The sizes of a live file.

    Raises:
        KeyError, ValueError: datasets are missing or do not fit together.
        Refusal: they are too large to be read.
    """
    slots, columns, block = found["series/blocks"].shape
    blocks = found["live/index"].shape[0]
    ring, words = found["live/ring"].shape
    fits = (
        min(slots, blocks, columns, ring) > 0,
        SHORTEST_BLOCK <= block <= LONGEST_BLOCK and block & (block - 1) == 0,
        slots <= blocks and ring % block == 0 and words == row_words(columns),
    )
    if not all(fits):
        raise ValueError("shapes that do not fit together")
    check(columns <= COLUMNS, f"it has {columns:,} columns, more than are read")
    check(
        blocks <= BLOCKS and blocks * block <= ROWS,
        f"it has room for {blocks * block:,} rows in {blocks:,} blocks, more than are read",
    )
    check(
        ring <= RING_ROWS and 4 * ring * words <= RING_BYTES,
        f"its newest rows take {4 * ring * words:,} bytes",
    )
    finest = next((rows for rows in (64, 512) if f"pyramid/x{rows}" in found), block)
    snapshots = [found[name] for name in _snapshots(found)]
    snapshot_bytes = snapshots[0].nbytes if snapshots else 0
    return Layout(columns, block, ring, blocks, slots, finest, len(snapshots), snapshot_bytes)


def offsets_of(layout: Layout, found: Mapping[str, Stored], size: int) -> dict[str, int]:
    """Where each dataset of a live file begins, held against the schema and the file's size in bytes.

    Raises:
        KeyError, ValueError: one is missing, of another shape or type, in chunks, or reaches beyond the end.
    """
    offsets = {}
    for spec in arrays(layout):
        stored = found[spec.name]
        if stored.offset is None or (stored.shape, stored.dtype) != (spec.shape, spec.dtype):
            raise ValueError(f"{spec.name} is not as the schema says")
        if stored.offset + spec.nbytes > size:
            raise ValueError(f"{spec.name} reaches beyond the end")
        offsets[spec.name] = stored.offset
    return offsets


def check_compact(found: Mapping[str, Stored], size: int) -> None:
    """Hold the number of rows of a compacted file against its size in bytes.

    Cells without a chunk cost nothing in the file, so that the values' sizes say nothing; but every step is
    stored, and deflate has a largest ratio.

    Raises:
        KeyError, ValueError: there are no rows.
        Refusal: there are more of them than are read, or than a file of this size can hold.
    """
    (rows,) = found["series/step"].shape
    check(rows <= ROWS, f"it claims {rows:,} rows, more than are read")
    check(8 * rows <= DEFLATE_RATIO * size, f"it claims {rows:,} rows, more than a file of its size can hold")


def _snapshots(found: Mapping[str, Stored]) -> list[str]:
    return sorted(name for name in found if name.startswith("snapshots/slot"))
