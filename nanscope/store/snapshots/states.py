"""The snapshots of a run, wherever its files keep them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from nanscope.store.contents import Contents, open_contents
from nanscope.store.reader import open_parts
from nanscope.store.snapshots.reader import Snapshot, read_snapshots
from nanscope.store.text import clean


def snapshots_of(path: str | Path) -> tuple[Snapshot, ...]:
    """The states of the training that a run holds, newest first.

    Raises:
        RunFileError: there is no such file, it is not a run file, or a snapshot describes what cannot be.
    """
    parts, _ = open_parts(Path(path))
    return tuple(snapshot for part in reversed(parts) for snapshot in snapshots_in(part.path))


def snapshots_in(path: Path, *, check: bool = True) -> tuple[Snapshot, ...]:
    """The snapshots in one file, newest first; `check` as in `read_snapshots`. Raises like `snapshots_of`."""
    name = clean(str(path))
    contents, descriptor = open_contents(path, name)
    try:
        found = [*_read(descriptor, contents, name, check=check)]
    finally:
        os.close(descriptor)
    return tuple(sorted(found, key=lambda snapshot: -snapshot.sequence))


def _read(descriptor: int, contents: Contents, name: str, *, check: bool) -> Iterator[Snapshot]:
    layout = contents.layout
    if layout is not None:
        slots, size = layout.snapshot_slots, layout.snapshot_bytes
        yield from read_snapshots(descriptor, contents.offsets, slots, size, name, check=check)
        return
    for key, stored in contents.inventory.arrays.items():  # in a compacted file each has its own size
        if key.startswith("snapshots/slot") and stored.offset is not None:
            offsets = {"snapshots/slot0": stored.offset}
            yield from read_snapshots(descriptor, offsets, 1, stored.nbytes, name, check=check)
