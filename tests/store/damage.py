"""Damage to run files: single bytes, and files that are wrong although every checksum is right."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from nanscope.errors import RunFileError
from nanscope.store.head import HEAD_SLOT, Head, pack_head
from nanscope.store.layout import Layout
from nanscope.store.pyramid import QUANTITIES
from nanscope.store.verification.verify import Verification, verify

HEAD_BYTES = len(pack_head(Head()))  # of a slot; the rest of its sector is never used


def verified(path: Path) -> Verification:
    """The verification of a run."""
    return verify(path, lambda _done, _all: None)


def is_found(path: Path) -> bool:
    """Whether the damage is told, or the file refused."""
    try:
        return bool(verified(path).problems)
    except RunFileError:
        return True


def place_of(path: Path, dataset: str) -> tuple[int, int]:
    """Offset and size in bytes of a contiguous dataset, as plain h5py sees it."""
    with h5py.File(path) as file:
        found = file[dataset].id
        return int(found.get_offset()), int(found.get_storage_size())


def flips(path: Path, positions: list[int], seed: int) -> Iterator[int]:
    """Flip one bit of a byte at each position in turn; it is as before when the next one is asked for."""
    dice = random.Random(seed)
    for position in positions:
        with path.open("r+b", buffering=0) as file:
            file.seek(position)
            byte = file.read(1)[0]
            file.seek(position)
            file.write(bytes([byte ^ (1 << dice.randrange(8))]))
            yield position
            file.seek(position)
            file.write(bytes([byte]))


def used_bytes(layout: Layout, blocks: int, event_bytes: int) -> dict[str, list[range]]:
    """Of each dataset of a live file the ranges of bytes that hold data; the ring is full."""
    used = {
        "live/head": [range(HEAD_BYTES), range(HEAD_SLOT, HEAD_SLOT + HEAD_BYTES)],
        "live/events": [range(event_bytes)],
        "live/ring": [range(layout.ring * layout.row_bytes)],
        "live/index": [range(16 * blocks)],
        "series/step": [range(8 * blocks * layout.block)],
        "series/time": [range(8 * blocks * layout.block)],
        "series/blocks": [range(blocks * layout.value_bytes)],
    }
    for name, rows in layout.levels.items():
        used[name] = [range(4 * blocks * layout.columns * len(QUANTITIES) * (layout.block // rows))]
    return used


def sample(ranges: list[range], count: int, seed: int) -> list[int]:
    """So many of the numbers in the ranges, the ends among them."""
    every = [number for numbers in ranges for number in numbers]
    chosen = random.Random(seed).sample(every, min(count, len(every)))
    return [every[0], every[-1], *chosen]


def overwrite(path: Path, dataset: str, start: int, values: NDArray[Any]) -> None:
    """Put other values into a contiguous dataset, `start` bytes into it."""
    offset, _ = place_of(path, dataset)
    with path.open("r+b") as file:
        file.seek(offset + start)
        file.write(values.tobytes())


def seal_block(path: Path, layout: Layout, number: int) -> None:
    """Make the checksums of a block those of what it holds now."""
    with h5py.File(path, "r") as file:
        rows = slice(number * layout.block, (number + 1) * layout.block)
        kept = [file["series/step"][rows], file["series/time"][rows]]
        kept += [file[name][number] for name in layout.levels]
        entry = file["live/index"][number]
        values = file["series/blocks"][int(entry[2]) - 1]
    crc = 0
    for part in kept:
        crc = zlib.crc32(np.ascontiguousarray(part).tobytes(), crc)
    entry[1], entry[3] = crc, zlib.crc32(values.tobytes())
    overwrite(path, "live/index", 16 * number, entry)
