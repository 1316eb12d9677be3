"""Trials by power cut: a victim's calls are logged, and every trial is a file that a cut could have left."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from tests.store.child import APPENDED, CLOSED
from tests.store.cutting import Call, durable, names, read_log, write_image
from tests.store.files import BLOCK
from tests.store.killing import Ground, Victim
from tests.store.outcome import Expected, Outcome, examine

IMAGES = 50  # from the log of one victim


def at_any_moment(ground: Ground, times: int) -> Iterator[Outcome]:
    """While rows are appended as fast as they can be, and while the run ends."""
    yield from _cut(ground, times, rows=ground.dice.randint(400, 1500))


def at_a_pace(ground: Ground, times: int) -> Iterator[Outcome]:
    """While a sync comes now and then between the rows, as in a training."""
    yield from _cut(ground, times, rows=ground.dice.randint(400, 800), pace=0.0005, sync_seconds=0.03)


def in_the_next_part(ground: Ground, times: int) -> Iterator[Outcome]:
    """While a run goes on from file to file."""
    yield from _cut(ground, times, rows=7 * BLOCK, blocks=2, slots=2, pace=0.0001, sync_seconds=0.01)


def in_a_thinned_slot(ground: Ground, times: int) -> Iterator[Outcome]:
    """While values of older blocks are overwritten by those of newer ones."""
    yield from _cut(ground, times, rows=16 * BLOCK, thinned=True, slots=6, blocks=64, sync_seconds=0.01)


def _cut(ground: Ground, times: int, *, thinned: bool = False, **plan: Any) -> Iterator[Outcome]:
    while times > 0:
        log = ground.folder / "log"
        with ground.victim(ground.plan(log=str(log), **plan)) as victim:
            assert victim.wait() == 0, victim.output
            assert victim.tally[CLOSED]
            calls = read_log(log)
            for _ in range(min(times, IMAGES)):
                yield _image(ground, victim, calls, thinned=thinned)
        times -= IMAGES


def _image(ground: Ground, victim: Victim, calls: Sequence[Call], *, thinned: bool) -> Outcome:
    """One power cut; mostly once the first file has its name."""
    named = next(i for i, call in enumerate(calls) if call.what == "link")
    start = named + 1 if ground.dice.random() < 0.95 else 0
    done = calls[: ground.dice.randint(start, len(calls))]
    files = names(done)
    if not files:
        return Outcome(exists=False, plain=False)
    folder = ground.folder / "image"
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for inode, name in files.items():
        write_image(folder / Path(name).name, done, inode, ground.dice)
    rows = [_durable_rows(Path(name), done, inode) for inode, name in files.items()]
    expected = Expected(
        due=np.concatenate(rows),
        last=int(victim.tally[APPENDED]),
        states=("killed", "live", "finished", "continued"),
        gaps=True,
        thinned=thinned,
        hollow=True,
        lossless=False,
    )
    outcome = examine(folder / Path(victim.plan.path).name, expected)
    sentence = f"{outcome.missing} rows lost that were on the disk"
    return replace(outcome, complaints=(*outcome.complaints, *[sentence] * (outcome.missing > 0)))


def _durable_rows(path: Path, calls: Sequence[Call], inode: int) -> NDArray[np.int64]:
    """Numbers of the rows whose write into the ring was followed by a sync that ended."""
    with h5py.File(path, "r") as file:
        ring = file["live/ring"]
        begin, size = ring.id.get_offset(), 4 * ring.shape[1]
        end = begin + size * ring.shape[0]
    found: set[int] = set()
    for call in calls[: durable(calls, inode)]:
        if call.inode == inode and call.what == "write" and begin <= call.offset < end:
            rows = np.frombuffer(call.data, "<u4").reshape(-1, size // 4)
            found.update(_step(row) // 3 for row in rows if zlib.crc32(row[:-1].data) == row[-1])
    return np.array(sorted(found), np.int64)


def _step(row: NDArray[np.uint32]) -> int:
    return int(row[2:4].copy().view("<i8")[0])
