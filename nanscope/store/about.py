"""What is in a run file, without reading the rows: what `nanscope info` tells."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nanscope.run import Run
from nanscope.store.contents import Contents, open_contents
from nanscope.store.guard.watched import read_at
from nanscope.store.head import HEAD_SLOT, newest_head
from nanscope.store.inventory import Stored
from nanscope.store.reader import Part, open_parts, run_of
from nanscope.store.snapshots.reader import Snapshot, read_snapshots
from nanscope.store.text import clean


@dataclass(frozen=True)
class FileFacts:
    """One file of a run.

    Attributes:
        path: of the file.
        part: its number, from 1; a compacted file may hold `parts` of them.
        layout: `live` or `compact`.
        precision: `exact`, or `12bit` where compaction rounded.
        rows: number of rows.
        capacity: rows that there is room for, None in a compacted file.
        bytes, bytes_on_disk: size as `ls -l` shows it, and what it takes without its holes.
        heartbeat: the writer's last sign of life, seconds since the epoch; None in a compacted file.
        slots: places for snapshots.
        snapshots: steps of those in it, newest first.
        format, writer: version of the format, and of the nanscope that wrote the file.
    """

    path: str
    part: int
    parts: int
    layout: str
    precision: str
    rows: int
    capacity: int | None
    bytes: int
    bytes_on_disk: int
    heartbeat: float | None
    slots: int
    snapshots: tuple[int, ...]
    format: str
    writer: str


@dataclass(frozen=True)
class About:
    """A run and its files.

    Attributes:
        run: the run.
        host: the machine that recorded.
        run_id: 32 hex digits.
        thinned: ranges of steps (first, last) of which only summaries are left.
        files: first part first.
    """

    run: Run
    host: str
    run_id: str
    thinned: tuple[tuple[int, int], ...]
    files: tuple[FileFacts, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON types, but for numbers that are not finite."""
        run, header = self.run, self.run.header
        on_disk = sum(file.bytes_on_disk for file in self.files)
        last = len(run) - 1
        return {
            "name": run.name,
            "state": run.state,
            "created": header.created,
            "host": self.host,
            "run_id": self.run_id,
            "steps": len(run),
            "first_step": _step(run, 0) if len(run) else None,
            "last_step": _step(run, last) if len(run) else None,
            "seconds": float(run.source.times(last, len(run))[0]) if len(run) else None,
            "config": header.config,
            "environment": header.environment,
            "modules": len(header.model),
            "parameters": _parameters(header.model),
            "columns": sum(bool(column.stat) for column in header.columns),
            "sites": dict(Counter(site.kind.value for site in run.sites)),
            "stats": list(dict.fromkeys(c.stat for c in header.columns if c.site is not None)),
            "scalars": list(run.scalars),
            "epochs": len(run.epochs),
            "last_epoch": run.epochs[-1].to_dict() if run.epochs else None,
            "events": dict(Counter(str(event["kind"]) for event in run.events)),
            "bytes": sum(file.bytes for file in self.files),
            "bytes_on_disk": on_disk,
            "bytes_per_step": on_disk / len(run) if len(run) else None,
            "thinned": [list(steps) for steps in self.thinned],
            "lost": list(run.lost),
            "files": [asdict(file) for file in self.files],
        }


def about(path: Path) -> About:
    """Look at a run: its header, its sizes, its state. Reads no series, so a long run takes no longer.

    Raises:
        RunFileError: the file cannot be read.
    """
    parts, lost = open_parts(path)
    run = run_of(clean(str(path)), parts, lost)
    first = parts[0].contents
    return About(run, first.host, first.run_id, _thinned(run), tuple(map(_facts, parts)))


def _thinned(run: Run) -> tuple[tuple[int, int], ...]:
    """Ranges of steps of which only summaries are left."""
    edges = [0, *(edge for kept in run.source.whole() for edge in kept), len(run)]
    gaps = [(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True) if start < stop]
    return tuple((_step(run, start), _step(run, stop - 1)) for start, stop in gaps)


def _step(run: Run, row: int) -> int:
    return int(run.source.steps(row, row + 1)[0])


def _facts(part: Part) -> FileFacts:
    name = clean(str(part.path))
    contents, descriptor = open_contents(part.path, name)
    try:
        return _facts_of(name, descriptor, contents, part.source.rows)
    finally:
        os.close(descriptor)


def _facts_of(name: str, descriptor: int, contents: Contents, rows: int) -> FileFacts:
    size, attributes = os.fstat(descriptor), contents.inventory.attributes
    places = [stored for key, stored in contents.inventory.arrays.items() if key.startswith("snapshots/")]
    return FileFacts(
        path=name,
        part=contents.part,
        parts=contents.parts,
        layout=clean(str(attributes["layout"])),
        precision=clean(str(attributes.get("precision", "exact"))),
        rows=rows,
        capacity=contents.layout.rows if contents.layout else None,
        bytes=size.st_size,
        bytes_on_disk=512 * size.st_blocks,
        heartbeat=_heartbeat(descriptor, contents),
        slots=len(places),
        snapshots=tuple(_snapshots(descriptor, places, name)),
        format=clean(str(attributes["format_version"])),
        writer=clean(str(attributes.get("nanscope_version", ""))),
    )


def _heartbeat(descriptor: int, contents: Contents) -> float | None:
    if contents.layout is None:
        return None
    head = newest_head(read_at(descriptor, 2 * HEAD_SLOT, contents.offsets["live/head"]))
    return head.heartbeat if head else None


def _snapshots(descriptor: int, places: Sequence[Stored], name: str) -> list[int]:
    """Steps of the snapshots in the file, newest first."""
    found: list[Snapshot] = []
    for stored in places:
        if stored.offset is not None:
            offsets = {"snapshots/slot0": stored.offset}
            found += read_snapshots(descriptor, offsets, 1, stored.nbytes, name, check=False)
    return [snapshot.step for snapshot in sorted(found, key=lambda snapshot: -snapshot.sequence)]


def _parameters(model: Sequence[Mapping[str, Any]]) -> int:
    """Elements of all parameters; what a foreign file says of shapes may be anything."""
    shapes = [
        shape
        for module in model
        if isinstance(parameters := module.get("parameters"), dict)
        for shape in parameters.values()
    ]
    return sum(
        math.prod(shape)
        for shape in shapes
        if isinstance(shape, list) and all(type(length) is int and 0 <= length < 2**40 for length in shape)
    )
