"""Power cuts, simulated from the log of a writer's calls: which files could be on the disk after one.

What was written before a sync that had ended by then is there. Of each page (of 512 or 4,096 bytes) that was
written later, any of its versions may be: the disk writes pages whenever and in whatever order it likes, and
a row or a block that lies on several of them may be torn.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.store.hooks import RECORD

PAGES = (512, 4096)


@dataclass(frozen=True)
class Call:
    """One logged call: write, truncate, sync (its beginning), synced (its end) or link."""

    what: str
    inode: int
    offset: int
    data: bytes


def read_log(path: Path) -> list[Call]:
    """The calls, oldest first."""
    data, calls, position = path.read_bytes(), [], 0
    while position < len(data):
        what, inode, offset, length = RECORD.unpack_from(data, position)
        position += RECORD.size
        calls.append(Call(what.rstrip(b"\0").decode(), inode, offset, data[position : position + length]))
        position += length
    return calls


def names(calls: Sequence[Call]) -> dict[int, str]:
    """The files that have a name, by inode."""
    return {call.inode: os.fsdecode(call.data) for call in calls if call.what == "link"}


def of_file(calls: Sequence[Call], inode: int, what: str) -> list[Call]:
    """The calls of one kind for one file."""
    return [call for call in calls if call.inode == inode and call.what == what]


def durable(calls: Sequence[Call], inode: int) -> int:
    """How many of the calls, up to a power cut, were before the last sync of this file that ended."""
    begins = [i for i, call in enumerate(calls) if call.inode == inode and call.what == "sync"]
    ends = [i for i, call in enumerate(calls) if call.inode == inode and call.what == "synced"]
    # syncs of one file may overlap in time: count only those that certainly ended
    return begins[len(ends) - 1] if ends else 0


def write_image(path: Path, calls: Sequence[Call], inode: int, dice: Random) -> None:
    """The file as a power cut after these calls may leave it."""
    safe = durable(calls, inode)
    before = [call for call in calls[:safe] if call.inode == inode]
    after = [call for call in calls[safe:] if call.inode == inode]
    with path.open("wb") as file:
        descriptor = file.fileno()
        for call in before:
            if call.what == "write":
                os.pwrite(descriptor, call.data, call.offset)
        sizes = [call.offset for call in before if call.what == "truncate"]
        later = [call.offset for call in after if call.what == "truncate" and dice.random() < 0.5]
        os.ftruncate(descriptor, max([*sizes, *later, os.fstat(descriptor).st_size]))
        for offset, data in _survivors([call for call in after if call.what == "write"], dice):
            os.pwrite(descriptor, data, offset)


def _survivors(writes: Sequence[Call], dice: Random) -> Iterator[tuple[int, bytes]]:
    """Pieces of the writes that reached the disk: of each page the first few versions."""
    page, share = dice.choice(PAGES), dice.choice((0.1, 0.5, 0.9))
    versions = Counter(number for call in writes for number, _, _ in _pieces(call, page))
    kept = {
        number: count if dice.random() < share else dice.randint(0, count)
        for number, count in versions.items()
    }
    seen: Counter[int] = Counter()
    for call in writes:
        for number, offset, data in _pieces(call, page):
            seen[number] += 1
            if seen[number] <= kept[number]:
                yield offset, data


def _pieces(call: Call, page: int) -> Iterator[tuple[int, int, bytes]]:
    """A write cut at the page boundaries: page, offset, bytes."""
    start = call.offset
    stop = start + len(call.data)
    while start < stop:
        end = min(stop, (start // page + 1) * page)
        yield start // page, start, call.data[start - call.offset : end - call.offset]
        start = end
