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
from nanscope.store.layout import ROW_HEAD_WORDS
from nanscope.store.process import is_alive
from nanscope.store.pyramid import QUANTITIES
from nanscope.store.raw import RawFile
from nanscope.store.schema import INDEX_WORDS
from nanscope.store.tail import is_whole, read_ring, settled, sound_rows

THINNED, UNREADABLE = -1, -2
CHECKED_BYTES = 8 << 30  # of blocks that no head vouches for, so that a hostile file cannot take forever
_ADVICE = ": the next run needs a disk with more room, or a faster one"
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

    A row leaves the ring only when its block is on the disk itself, so as a rule the durable blocks and the
    ring are the run. Where the ring has gaps, blocks that prove themselves by their checksums help.

    The order of reading matters while the writer is at work: what is missing in the ring because the writer
    went on after the head was read is in a block that the index has by then.
    """
    block = raw.layout.block
    found = newest_head(raw.read("live/head", "u1", 2 * HEAD_SLOT).tobytes())
    head = found or Head()
    table = read_ring(raw)
    index = raw.read("live/index", "<u4", INDEX_WORDS * raw.layout.blocks).reshape(-1, INDEX_WORDS)
    blocks, slots = _trusted_blocks(raw, head, index[: head.durable_blocks])
    first = _after(blocks) * block
    numbers, rows = sound_rows(table, first)
    if len(blocks) < head.durable_blocks or not is_whole(numbers, first, head.rows):
        blocks, slots = _trusted_blocks(raw, head, index)
        numbers, rows = sound_rows(table, 0)
        count = _most_rows(blocks, slots, numbers, block)
        blocks, slots = blocks[:count], slots[:count]
        first = _after(blocks) * block
        rows, numbers = rows[numbers >= first], numbers[numbers >= first]
    count = settled(numbers, first, head.rows)
    rows = rows[:count]
    last = int(numbers[count - 1]) + 1 if count else first
    return Recovered(
        head=head,
        blocks=blocks,
        slots=slots,
        values=rows[:, ROW_HEAD_WORDS : ROW_HEAD_WORDS + raw.layout.columns].view("<f4"),
        steps=np.ascontiguousarray(rows[:, 2:4]).view("<i8")[:, 0],
        times=np.ascontiguousarray(rows[:, 4:6]).view("<f8")[:, 0],
        lost=(
            *_losses(found, last, last - len(blocks) * block - count),
            *_losses_of_values(raw, blocks, slots),
        ),
    )


def state_of(head: Head, host: str) -> str:
    """The run's state: as the writer closed it, else live or killed.

    On the machine that records the process itself is the answer: it may be stopped, or its clock set back.
    Elsewhere (and on Windows, where looking for a process may end it) the heartbeat has to do.
    """
    state = STATES[head.state]
    if state != "live":
        return state
    if host == platform.node() and os.name == "posix":
        return "live" if is_alive(head.pid, head.started) else "killed"
    return "killed" if abs(time.time() - head.heartbeat) > STALE_SECONDS else "live"


def _after(blocks: NDArray[np.int64]) -> int:
    return int(blocks[-1]) + 1 if len(blocks) else 0


def _most_rows(
    blocks: NDArray[np.int64], slots: NDArray[np.int64], numbers: NDArray[np.int64], block: int
) -> int:
    """How many of the blocks to take, and the rest from the ring, so that most rows are there.

    The ring may hold rows of a block that is torn, or was given up before a later one could be written. Where
    it makes no difference the ring is preferred: it was synced before a block that no head vouches for.
    """
    in_blocks = block * np.concatenate([[0], np.cumsum(slots != UNREADABLE)])
    starts = block * np.concatenate([[0], blocks + 1])
    in_ring = len(numbers) - np.searchsorted(numbers, starts)
    return int(np.argmax(in_blocks + in_ring))


def _trusted_blocks(
    raw: RawFile, head: Head, index: NDArray[np.uint32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers and slots of the trusted blocks among those of the index."""
    layout = raw.layout
    most = head.durable_blocks + CHECKED_BYTES // (layout.value_bytes + layout.summary_bytes)
    index = index[:most]
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


def _losses(head: Head | None, last: int, missing: int) -> list[str]:
    if head is None:
        return ["the writer's record of its progress is unreadable; rows were found by their checksums"]
    behind = head.rows - last
    sentences = {
        f"{missing:,} steps could not be written and are missing": missing,
        f"the last {behind:,} steps are unreadable": behind,
        f"{head.lost_rows:,} steps found no room and were not recorded{_ADVICE}": head.lost_rows,
        f"{head.lost_events:,} events found no room and were not recorded": head.lost_events,
    }
    return [sentence for sentence, count in sentences.items() if count > 0]
