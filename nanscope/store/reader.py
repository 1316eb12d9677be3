"""Open a run file, whatever state its writer left it in; needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nanscope.run import Column, Run
from nanscope.store.contents import Contents, open_contents
from nanscope.store.journal import parse
from nanscope.store.raw import RawFile
from nanscope.store.recover import recover, state_of
from nanscope.store.schema import EVENT_BYTES
from nanscope.store.source import FileSource
from nanscope.store.text import clean
from nanscope.values import Epoch

_EVENT_CHUNK = 1 << 16


def open_run(path: str | Path) -> Run:
    """Open a run file as it is at this moment; open it again to see what a live run added.

    Args:
        path: the run file.

    Returns:
        The run. It reads series from the file when they are asked for.

    Raises:
        RunFileError: there is no such file, or it is not a run file that this version reads.
    """
    name = clean(str(path))
    contents, descriptor = open_contents(Path(path), name)
    return _run(name, contents, RawFile(name, descriptor, contents.layout, contents.offsets))


def _run(name: str, contents: Contents, raw: RawFile) -> Run:
    recovered = recover(raw)
    events, unreadable = _events(raw)
    epochs = [epoch for epoch in map(_epoch, _of_kind(events, "epoch")) if epoch is not None]
    columns = _named(contents.header.columns, _of_kind(events, "scalar"))
    torn = (f"{unreadable:,} events are unreadable",) if unreadable else ()
    return Run(
        name=name,
        header=replace(contents.header, columns=columns),
        source=FileSource(raw, recovered),
        state=state_of(recovered.head, contents.host),
        events=tuple(event for event in events if event["kind"] not in ("epoch", "scalar")),
        epochs=tuple(epochs),
        lost=(*recovered.lost, *torn),
    )


def _of_kind(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["kind"] == kind]


def _events(raw: RawFile) -> tuple[list[dict[str, Any]], int]:
    chunks = []
    for start in range(0, EVENT_BYTES, _EVENT_CHUNK):
        chunk = raw.read("live/events", "u1", _EVENT_CHUNK, start)
        if not chunk.any():
            break
        chunks.append(chunk.tobytes())
    return parse(b"".join(chunks))


def _epoch(event: Mapping[str, Any]) -> Epoch | None:
    fields = {key: value for key, value in event.items() if key != "kind"}
    try:
        return Epoch(**{**fields, "confusion": tuple(tuple(row) for row in fields["confusion"])})
    except (KeyError, TypeError):
        return None


def _named(columns: tuple[Column, ...], events: list[dict[str, Any]]) -> tuple[Column, ...]:
    """The columns, with the spare ones named as the writer named them while it ran."""
    named = list(columns)
    for event in events:
        match event:
            case {"column": int(index), "name": str(name)} if 0 <= index < len(named):
                if named[index] == Column(None, ""):
                    named[index] = Column(None, clean(name))
    return tuple(named)
