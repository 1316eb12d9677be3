"""Open a run file, whatever state its writer left it in; needs no torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nanscope.errors import RunFileError
from nanscope.run import Column, Header, Run, Source
from nanscope.store.checksums import wrong_checksums
from nanscope.store.compaction.compacted import open_compact
from nanscope.store.contents import Contents, open_contents
from nanscope.store.events import Event, epoch_of
from nanscope.store.joined import join
from nanscope.store.journal import parse
from nanscope.store.parts import first_name, part_names
from nanscope.store.raw import RawFile
from nanscope.store.recover import recover, state_of
from nanscope.store.schema import EVENT_BYTES
from nanscope.store.source import FileSource
from nanscope.store.text import clean

_EVENT_CHUNK = 1 << 16


@dataclass(frozen=True)
class Part:
    """One file of a run.

    Attributes:
        path: of the file.
        contents: what is fixed in it.
        raw: reads the rest of a live file; None where it is compacted.
        header: with the names that spare scalars got.
        source: its rows.
        events: all of them, oldest first, epochs included.
        state, lost: as in `Run`.
    """

    path: Path
    contents: Contents
    raw: RawFile | None
    header: Header
    source: Source
    events: tuple[Event, ...]
    state: str
    lost: tuple[str, ...]


def open_run(path: str | Path) -> Run:
    """Open a run file as it is at this moment; open it again to see what a live run added.

    Args:
        path: the run file. A run in several parts is opened by the name of any of them.

    Returns:
        The run. It reads series from the file when they are asked for.

    Raises:
        RunFileError: there is no such file, or it is not a run file that this version reads.
    """
    return run_of(clean(str(path)), *open_parts(Path(path)))


def run_of(name: str, parts: Sequence[Part], lost: Sequence[str] = ()) -> Run:
    """The parts of a run as one; `name` and `lost` as in `Run`."""
    columns, source = join([(part.header.columns, part.source) for part in parts])
    events = [event for part in parts for event in part.events]
    epochs = [epoch for epoch in map(epoch_of, _of_kind(events, "epoch")) if epoch is not None]
    return Run(
        name=name,
        header=replace(parts[0].header, columns=columns, model=parts[-1].header.model),
        source=source,
        state=parts[-1].state,
        events=tuple(event for event in events if event["kind"] not in ("epoch", "scalar")),
        epochs=tuple(epochs),
        lost=(*(loss for part in parts for loss in part.lost), *lost),
    )


def open_parts(path: Path) -> tuple[list[Part], tuple[str, ...]]:
    """The files of a run, first to last, given any of them; and sentences on those that are missing.

    Raises:
        RunFileError: the file cannot be read.
    """
    parts = [_open_part(path)]
    lost: list[str] = []
    if parts[0].contents.part > 1:
        earlier = _first_part(path, parts[0].contents)
        parts = [earlier] if earlier else parts
    if parts[0].contents.part > 1:
        lost.append(f"this is part {parts[0].contents.part} of a run, the first part is not here")
    for part in _following(parts[0], lost):
        if parts[-1].state == "live":  # it went on in this one just now: rows may have come to it meanwhile
            parts[-1] = _open_part(parts[-1].path)
        parts.append(part)
    if parts[-1].state == "continued":
        lost.append(f"the run goes on in part {_number_after(parts[-1])}, which is not here")
    return parts, tuple(lost)


def _first_part(path: Path, contents: Contents) -> Part | None:
    """The first part of the run that a later one belongs to, if it is there."""
    try:
        first = _open_part(first_name(path))
    except RunFileError:
        return None
    return first if first.contents.run_id == contents.run_id and first.contents.part == 1 else None


def _following(part: Part, lost: list[str]) -> Iterator[Part]:
    start, found = start_of(part), part
    while (number := _number_after(found)) and (following := _open_next(start, found, number, lost)):
        yield following
        found = following


def start_of(part: Part) -> Path:
    """Where the run's first file is, beside which the others lie: not beside a link to it."""
    path = Path(os.path.realpath(part.path))
    return path if part.contents.part == 1 else first_name(path)


def _open_next(first: Path, before: Part, number: int, lost: list[str]) -> Part | None:
    for name in part_names(first, number, before.contents.run_id):
        if not os.path.lexists(name):
            continue
        try:
            part = _open_part(name)
        except RunFileError as error:
            lost.append(f"part {number} of the run cannot be read: {error.message}")
            continue
        if (part.contents.run_id, part.contents.part) == (before.contents.run_id, number):
            return part
    return None


def _number_after(part: Part) -> int:
    """A compacted file may hold several parts."""
    return part.contents.part + part.contents.parts


def _open_part(path: Path) -> Part:
    name = clean(str(path))
    contents, descriptor = open_contents(path, name)
    if contents.layout is not None:
        return _live_part(path, contents, RawFile(name, descriptor, contents.layout, contents.offsets))
    found = open_compact(name, descriptor, contents.header, contents.inventory)
    return Part(path, contents, None, contents.header, found.source, found.events, found.state, found.lost)


def _live_part(path: Path, contents: Contents, raw: RawFile) -> Part:
    recovered = recover(raw)
    events, unreadable = _events(raw)
    torn = (f"{unreadable:,} events are unreadable",) if unreadable else ()
    return Part(
        path=path,
        contents=contents,
        raw=raw,
        header=replace(contents.header, columns=_named(contents.header.columns, _of_kind(events, "scalar"))),
        source=FileSource(raw, recovered),
        events=tuple(events),
        state=state_of(recovered.head, contents.host),
        lost=(*recovered.lost, *torn, *_changed(contents, raw)),
    )


def _changed(contents: Contents, raw: RawFile) -> tuple[str, ...]:
    try:
        names = list(wrong_checksums(contents.inventory, raw.at))
    except (KeyError, ValueError, TypeError, AttributeError):
        return ("the checksums of names and settings are unreadable",)
    return tuple(f"{clean(name)} is not as it was written" for name in names)


def _of_kind(events: list[Event], kind: str) -> list[Event]:
    return [event for event in events if event["kind"] == kind]


def _events(raw: RawFile) -> tuple[list[Event], int]:
    chunks = []
    for start in range(0, EVENT_BYTES, _EVENT_CHUNK):
        chunk = raw.read("live/events", "u1", _EVENT_CHUNK, start)
        if not chunk.any():
            break
        chunks.append(chunk.tobytes())
    return parse(b"".join(chunks))


def _named(columns: tuple[Column, ...], events: list[Event]) -> tuple[Column, ...]:
    """The columns, with the spare ones named as the writer named them while it ran."""
    named = list(columns)
    for event in events:
        match event:
            case {"column": int(index), "name": str(name)} if 0 <= index < len(named):
                if named[index] == Column(None, ""):
                    named[index] = Column(None, clean(name))
    return tuple(named)
