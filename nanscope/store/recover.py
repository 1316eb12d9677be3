"""Which rows of a run file can be trusted, whatever became of its writer.

Rows come from two places: blocks, which the index declares complete, and the ring, where each row has its own
checksum. A killed process leaves both as it wrote them. A power cut may lose any page that was not synced, so
a block that was not known to be on the disk counts only when its checksum is right.
"""

from __future__ import annotations

import os
import platform
import time
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanscope.run import Floats
from nanscope.store.pyramid import QUANTITIES
from nanscope.store.raw import RawFile
from nanscope.store.schema import HEAD_SLOT, ROW_HEAD_WORDS, STATES, Head, newest_head, row_words

STALE_SECONDS = 10.0  # without a heartbeat, ten times as long as the writer takes for one


@dataclass(frozen=True)
class Recovered:
    """The trusted rows: those of `blocks`, in this order, then the tail.

    Attributes:
        head: the writer's last word.
        blocks: numbers of the trusted blocks, rising.
        values, steps, times: the rows in the ring that no block holds, oldest first.
        lost: sentences on what is missing.
    """

    head: Head
    blocks: NDArray[np.int64]
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
    blocks = _trusted_blocks(raw, head)
    first = (int(blocks[-1]) + 1) * raw.layout.block if len(blocks) else 0
    numbers, slots = _ring_rows(ring, first, head.rows)
    rows = ring[slots]
    last = int(numbers[-1]) + 1 if len(numbers) else first
    missing = last - len(blocks) * raw.layout.block - len(numbers)
    return Recovered(
        head=head,
        blocks=blocks,
        values=rows[:, ROW_HEAD_WORDS : ROW_HEAD_WORDS + raw.layout.columns].view("<f4"),
        steps=np.ascontiguousarray(rows[:, 2:4]).view("<i8")[:, 0],
        times=np.ascontiguousarray(rows[:, 4:6]).view("<f8")[:, 0],
        lost=tuple(_losses(found, last, missing)),
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


def _trusted_blocks(raw: RawFile, head: Head) -> NDArray[np.int64]:
    layout = raw.layout
    index = raw.read("live/index", "<u4", 2 * layout.blocks).reshape(layout.blocks, 2)
    complete = np.flatnonzero(index[:, 0] == layout.block)
    sound = [b < head.durable_blocks or _block_crc(raw, int(b)) == index[b, 1] for b in complete]
    return np.asarray(complete[np.array(sound, bool)], np.int64)


def _block_crc(raw: RawFile, number: int) -> int:
    layout = raw.layout
    sizes = {"series/blocks": layout.columns * layout.block * 4, "series/step": layout.block * 8}
    sizes["series/time"] = sizes["series/step"]
    for name, rows in layout.levels.items():
        sizes[name] = layout.columns * len(QUANTITIES) * (layout.block // rows) * 4
    crc = 0
    for name, size in sizes.items():  # the order in which the writer summed them
        crc = zlib.crc32(raw.read(name, "u1", size, number * size).data, crc)
    return crc


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
