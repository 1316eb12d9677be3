"""What a compacted file is to hold, drawn from the parts of a run; nothing is read before it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nanscope.errors import UsageError
from nanscope.run import MISSING, Column, Floats, Header, Source
from nanscope.store.compaction.codec import rounded
from nanscope.store.compaction.fold import Event, Table, fold
from nanscope.store.compaction.part_record import PartRecord, buckets
from nanscope.store.joined import join, key
from nanscope.store.overview import Table as Summarised
from nanscope.store.pyramid import FINITE, INF, NAN, QUANTITIES, summarise
from nanscope.store.raw import RawFile
from nanscope.store.reader import Part
from nanscope.store.snapshots.slots import HEADER_BYTES, unpack_head
from nanscope.store.source import FileSource
from nanscope.values import Kind

PIECE_BYTES = 1 << 20

_NOTHING = summarise(np.full((1, 1), MISSING), 1)[0]  # the summary of rows that were not measured
_COUNTS = (FINITE, NAN, INF)


@dataclass(frozen=True)
class Slot:
    """A snapshot in one of the parts, as it lies there; `nbytes` of its slot are used."""

    raw: RawFile
    name: str
    nbytes: int

    def pieces(self) -> Iterator[NDArray[np.uint8]]:
        """The used bytes, a bounded number at a time."""
        for start in range(0, self.nbytes, PIECE_BYTES):
            yield self.raw.read(self.name, "u1", min(PIECE_BYTES, self.nbytes - start), start)


@dataclass(frozen=True)
class Draft:
    """A run in the shape of a compacted file.

    Attributes:
        first: the first part, whose identity the file takes over.
        count: how many parts it holds.
        header, source: as in `Run`; columns are the union of the parts'.
        records, tables: what the file says of each part, and the part's rows.
        places: for each part, by column of the whole, its place in the part's rows.
        events, epochs: the epochs are a table where it holds them exactly, else events.
        slots: the snapshots of all parts.
        state, lost: as in `Run`.
        lossy: columns whose values are rounded.
    """

    first: Part
    count: int
    header: Header
    source: Source
    records: tuple[PartRecord, ...]
    tables: tuple[Summarised, ...]
    places: tuple[Mapping[int, int], ...]
    events: tuple[Event, ...]
    epochs: Table
    slots: tuple[Slot, ...]
    state: str
    lost: tuple[str, ...]
    lossy: frozenset[int]

    def values(self, index: int, start: int, stop: int) -> Floats:
        """One column of the rows start..stop, as the file is to hold it."""
        values = self.source.column(index, start, stop)
        return rounded(values) if index in self.lossy else values

    def cells(self, level: str, index: int) -> Floats:
        """One column at one level of all parts, shape (quantities, buckets)."""
        cells = np.concatenate([self._cells(part, level, index) for part in range(len(self.records))], axis=1)
        if index not in self.lossy:
            return cells
        near = rounded(cells)
        near[list(_COUNTS)] = cells[list(_COUNTS)]
        return near

    def _cells(self, part: int, level: str, index: int) -> Floats:
        count = buckets(self.records[part], level)
        if not count:
            return np.empty((len(QUANTITIES), 0), np.float32)
        if index not in self.places[part]:
            return np.repeat(_NOTHING, count, axis=1)
        return self.tables[part].cells(level, self.places[part][index])

    def buckets(self, level: str) -> int:
        """Buckets of all parts at one level."""
        return sum(buckets(record, level) for record in self.records)


def draw(parts: Sequence[Part], *, round_norms: bool) -> Draft:
    """The draft of a run, given its parts, none of them compacted.

    Raises:
        UsageError: a compacted file has no place for some of its columns.
    """
    columns, source = join([(part.header.columns, part.source) for part in parts])
    _refuse_doubles(columns, parts[0].path)
    whole = {i: i for i in range(len(columns))}
    places = [whole] if len(parts) == 1 else [_places(part, columns) for part in parts]
    events, epochs = fold([event for part in parts for event in part.events])
    tables = tuple(part.source for part in parts if isinstance(part.source, FileSource))
    if len(tables) < len(parts):
        raise UsageError(f"a part of {parts[0].path} is compacted already", "read it as it is")
    return Draft(
        first=parts[0],
        count=sum(part.contents.parts for part in parts),
        header=replace(parts[0].header, columns=columns, model=parts[-1].header.model),
        source=source,
        records=tuple(
            PartRecord(table.rows, dict(table.levels), table.thins, table.whole(), tuple(place))
            for table, place in zip(tables, places, strict=True)
        ),
        tables=tables,
        places=tuple(places),
        events=tuple(events),
        epochs=epochs,
        slots=tuple(slot for part in parts if part.raw is not None for slot in _slots(part.raw)),
        state=parts[-1].state,
        lost=tuple(loss for part in parts for loss in part.lost),
        lossy=frozenset(i for i, c in enumerate(columns) if round_norms and may_be_rounded(c)),
    )


def may_be_rounded(column: Column) -> bool:
    """Whether 12 bits of mantissa are enough for what a column says.

    Norms that vary from step to step, and the loss. Counts, shares and what the user logged stay exact. So do
    norms of parameters: they move by less than a rounding, and one that stands still means a frozen weight.
    """
    if column.site is None:
        return column.stat in ("loss", "logits_abs_max", "logits_spread", "logits_margin")
    return column.stat in ("l2", "abs_max") and column.site.kind is not Kind.WEIGHT


def _slots(raw: RawFile) -> Iterator[Slot]:
    size = raw.layout.snapshot_bytes
    for name in (f"snapshots/slot{i}" for i in range(raw.layout.snapshot_slots)):
        head = unpack_head(raw.read(name, "u1", min(size, HEADER_BYTES)).tobytes())
        if head is not None and head.nbytes <= size:
            yield Slot(raw, name, head.nbytes)


def _places(part: Part, columns: Sequence[Column]) -> Mapping[int, int]:
    whole = {key(column): i for i, column in enumerate(columns)}
    places: dict[int, int] = {}
    for local, column in enumerate(part.header.columns):
        if key(column) in whole:
            places.setdefault(whole[key(column)], local)
    return places


def _refuse_doubles(columns: Sequence[Column], path: Path) -> None:
    """One cell of the table of sites and stats has room for one column."""
    measured = [column for column in columns if column.site is not None]
    if len(set(measured)) < len(measured):
        raise UsageError(
            f"{path} has two columns of one name and cannot be compacted", "it can be read as it is"
        )
