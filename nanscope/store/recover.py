"""Which rows of a run file can be trusted, whatever became of its writer.

Rows come from two places: blocks, which the index declares complete, and the ring, where each row has its own
checksum. A killed process leaves both as it wrote them. A power cut may lose any page that was not synced, so
what was not known to be on the disk counts only when its checksum is right.
"""

from __future__ import annotations

import os
import platform
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanscope.run import Floats
from nanscope.store.head import HEAD_SLOT, STATES, Head, newest_head
from nanscope.store.layout import ROW_HEAD_WORDS, row_words
from nanscope.store.pyramid import QUANTITIES
from nanscope.store.raw import RawFile
from nanscope.store.schema import INDEX_WORDS

THINNED, UNREADABLE = -1, -2
STALE_SECONDS = 10.0  # without a heartbeat, ten times as long as the writer takes for one


@dataclass(frozen=True)
class Recovered:
    """The trusted rows: those of `blocks`, in this order, then the tail.

    Attributes:
        head: the writer's last word.
        blocks: numbers of the trusted blocks, rising.
        slots: where the values of each of them are in /series/blocks; THINNED or UNREADABLE where nowhere.
        values, steps, times: the rows in the ring that no block holds, oldest first.
        lost: sentences on what is missing.
    """

    head: Head
    blocks: NDArray[np.int64]
    slots: NDArray[np.int64]
    values: Floats
    steps: NDArray[np.int64]
    times: NDArray[np.float64]
    lost: tuple[str, ...]


def recover(raw: RawFile) -> Recovered:
    """Find the trusted rows.

    The order of reading matters while the writer is at work: it frees a row's place in the ring only after
    the index has its block, so ring first, index second never misses a row that the head counted.
    """
    found = newest_head(raw.read("live/head", "u1", 2 * HEAD_SLOT).tobytes())
    head = found or Head()
    words = row_words(raw.layout.columns)
    ring = raw.read("live/ring", "<u4", raw.layout.ring * words).reshape(raw.layout.ring, words)
    blocks, slots = _trusted_blocks(raw, head)
    first = (int(blocks[-1]) + 1) * raw.layout.block if len(blocks) else 0
    numbers, places = _ring_rows(ring, first, head.rows)
    rows = ring[places]
    last = int(numbers[-1]) + 1 if len(numbers) else first
    missing = last - len(blocks) * raw.layout.block - len(numbers)
    return Recovered(
        head=head,
        blocks=blocks,
        slots=slots,
        values=rows[:, ROW_HEAD_WORDS : ROW_HEAD_WORDS + raw.layout.columns].view("<f4"),
        steps=np.ascontiguousarray(rows[:, 2:4]).view("<i8")[:, 0],
        times=np.ascontiguousarray(rows[:, 4:6]).view("<f8")[:, 0],
        lost=(*_losses(found, last, missing), *_losses_of_values(raw, blocks, slots)),
    )


def state_of(head: Head, host: str) -> str:
    """The run's state: as the writer closed it, else live or killed."""
    state = STATES[head.state]
    if state != "live":
        return state
    stale = abs(time.time() - head.heartbeat) > STALE_SECONDS  # a clock may have been set back
    return "killed" if stale or (host == platform.node() and not _exists(head.pid)) else "live"


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _trusted_blocks(raw: RawFile, head: Head) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers and slots of the trusted blocks."""
    layout = raw.layout
    index = raw.read("live/index", "<u4", INDEX_WORDS * layout.blocks).reshape(-1, INDEX_WORDS)
    complete = np.flatnonzero((index[:, 0] == layout.block) & (index[:, 2] <= layout.slots))
    sound = [b < head.durable_blocks or summary_crc(raw, int(b)) == index[b, 1] for b in complete]
    blocks = np.asarray(complete[np.array(sound, bool)], np.int64)
    slots = index[blocks, 2].astype(np.int64) - 1
    for i in np.flatnonzero((blocks >= head.durable_blocks) & (slots >= 0)):
        if values_crc(raw, int(slots[i])) != index[blocks[i], 3]:
            slots[i] = UNREADABLE
    return blocks, slots


def summary_crc(raw: RawFile, number: int) -> int:
    """Checksum of a block's steps, times and summaries, in the order in which the writer summed them."""
    layout = raw.layout
    sizes = {"series/step": layout.block * 8, "series/time": layout.block * 8}
    for name, rows in layout.levels.items():
        sizes[name] = layout.columns * len(QUANTITIES) * (layout.block // rows) * 4
    crc = 0
    for name, size in sizes.items():
        crc = zlib.crc32(raw.read(name, "u1", size, number * size).data, crc)
    return crc


def values_crc(raw: RawFile, slot: int) -> int:
    """Checksum of the values of a block."""
    size = raw.layout.value_bytes
    return zlib.crc32(raw.read("series/blocks", "u1", size, slot * size).data)


def _losses_of_values(raw: RawFile, blocks: NDArray[np.int64], slots: NDArray[np.int64]) -> Iterator[str]:
    block = raw.layout.block
    unreadable, thinned = block * np.count_nonzero(slots == UNREADABLE), blocks[slots == THINNED]
    if unreadable:
        yield f"the values of {unreadable:,} steps are unreadable, their summaries are there"
    if len(thinned):
        first = raw.read("series/step", "<i8", 1, 8 * block * int(thinned[0]))[0]
        last = raw.read("series/step", "<i8", 1, 8 * (block * (int(thinned[-1]) + 1) - 1))[0]
        yield (
            f"{len(thinned) * block:,} of the steps {first:,} to {last:,} are kept as summaries of "
            f"{raw.layout.finest} steps only: the file reached its size budget"
        )


def _ring_rows(
    ring: NDArray[np.uint32], first: int, counted: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Numbers and slots of the sound rows from `first` on.

    Of the rows that the head did not count yet only those without a gap: a writer at work may have put a
    later one into a place that was not read yet while an earlier one went where the reading had passed.
    """
    numbers = np.ascontiguousarray(ring[:, :2]).view("<u8")[:, 0]
    slots = np.flatnonzero((numbers % len(ring) == np.arange(len(ring))) & (numbers >= first))
    slots = np.array([s for s in slots if zlib.crc32(ring[s, :-1].data) == ring[s, -1]], np.int64)
    slots = slots[np.argsort(numbers[slots])]
    found = numbers[slots]
    start = max(first, counted)
    new = found >= start
    expected = start + np.arange(np.count_nonzero(new), dtype=np.uint64)
    gaps = np.flatnonzero(found[new] != expected)
    stop = np.count_nonzero(~new) + (gaps[0] if len(gaps) else len(expected))
    return found[:stop], slots[:stop]


def _losses(head: Head | None, last: int, missing: int) -> list[str]:
    if head is None:
        return ["the writer's record of its progress is unreadable; rows were found by their checksums"]
    behind = head.rows - last
    sentences = {
        f"{missing:,} steps could not be written and are missing": missing,
        f"the last {behind:,} steps are unreadable": behind,
        f"{head.lost_rows:,} steps found no room and were not recorded": head.lost_rows,
        f"{head.lost_events:,} events found no room and were not recorded": head.lost_events,
    }
    return [sentence for sentence, count in sentences.items() if count > 0]
