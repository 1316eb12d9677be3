"""Whether a run file is sound: every checksum, every count, every summary against its values.

The reader trusts what it can and leaves out what it cannot. This looks at everything, also at what no reader
needs, and says in words what is wrong and where. Summaries are counted again by code that shares nothing with
the writer's (`recount.py`).
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nanscope.errors import RunFileError
from nanscope.store.checksums import checksum
from nanscope.store.contents import open_contents
from nanscope.store.guard.watched import read_at
from nanscope.store.inventory import Inventory
from nanscope.store.reader import Part, open_parts
from nanscope.store.snapshots.reader import read_snapshots
from nanscope.store.snapshots.slots import PIN_OFFSET
from nanscope.store.text import clean
from nanscope.store.verification.compacted import check_compact
from nanscope.store.verification.live import check_live
from nanscope.store.verification.tally import Tally

Report = Callable[[int, int], None]
"""Is told the rows that were checked and all rows."""


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Attributes:
        name: the run file as it was asked for.
        state: of the run, as in `Run`.
        files: the files of the run.
        checked: how much was looked at, by what it is.
        problems: what is wrong and where, a sentence each; empty in a sound run.
        notes: what is no damage, but good to know.
    """

    name: str
    state: str
    files: tuple[str, ...]
    checked: dict[str, int]
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def verify(path: Path, report: Report) -> Verification:
    """Check every file of a run.

    Raises:
        RunFileError: the file cannot be read at all.
    """
    parts, lost = open_parts(path)
    total, done = sum(part.source.rows for part in parts), 0

    def advance(rows: int) -> None:
        nonlocal done
        done = min(done + rows, total)
        report(done, total)

    tallies = [_check(part, len(parts) > 1, advance) for part in parts]
    return Verification(
        name=clean(str(path)),
        state=parts[-1].state,
        files=tuple(clean(str(part.path)) for part in parts),
        checked=dict(sum((Counter(tally.checked) for tally in tallies), Counter[str]())),
        problems=(*lost, *(problem for tally in tallies for problem in tally.problems)),
        notes=tuple(note for tally in tallies for note in tally.notes),
    )


def _check(part: Part, several: bool, advance: Callable[[int], None]) -> Tally:
    name = clean(str(part.path))
    tally = Tally(part.header.columns, f"{clean(part.path.name)}: " if several else "", advance)
    contents, descriptor = open_contents(part.path, name)
    try:
        _check_texts(descriptor, contents.inventory, tally)
        if part.raw is not None:
            check_live(part.raw, part.state, tally)
        else:
            check_compact(name, descriptor, contents, part.source, tally)
        for place, stored in contents.inventory.arrays.items():
            if place.startswith("snapshots/") and stored.offset is not None:
                _check_snapshot(name, descriptor, stored.offset, stored.nbytes, tally)
    finally:
        os.close(descriptor)
    for sentence in part.lost:
        tally.note(sentence)
    tally.close()
    return tally


def _check_texts(descriptor: int, inventory: Inventory, tally: Tally) -> None:
    """Names, settings and small tables against the checksums that the file has of them."""
    checksums = json.loads(inventory.texts.get("checksums", ["{}"])[0])
    for name, crc in checksums.items():
        stored = inventory.arrays.get(name)
        if stored is None:
            value: bytes | list[str] = inventory.texts.get(name, [])
        else:
            value = read_at(descriptor, stored.nbytes, stored.offset or 0)
        tally.count("texts and tables")
        if checksum(value) != crc:
            tally.problem(f"the checksum of {clean(name)} is wrong")


def _check_snapshot(name: str, descriptor: int, offset: int, size: int, tally: Tally) -> None:
    """A slot that says that it holds something holds all of it; its header is written last."""
    if not any(read_at(descriptor, PIN_OFFSET, offset)):
        return
    tally.count("snapshots")
    try:
        found = read_snapshots(descriptor, {"snapshots/slot0": offset}, 1, size, name)
    except RunFileError as error:
        tally.problem(error.message)
    else:
        if not found:
            tally.problem("a snapshot of the training's state is damaged")
