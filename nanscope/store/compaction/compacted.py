"""Read a compacted run file: its rows, its pyramid, its events. libhdf5 has no part in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanscope.run import Floats, Header, Overview, Source
from nanscope.store.checksums import TABLE_BYTES, wrong_checksums
from nanscope.store.compaction.chunks import Cache, Chunked, OpenFile
from nanscope.store.compaction.fold import FIELDS, Event, parse_line, unfold
from nanscope.store.compaction.part_record import LEVELS, PartRecord, buckets, parse_ending, parse_part, short
from nanscope.store.inventory import Inventory, Stored
from nanscope.store.joined import JoinedSource, Piece
from nanscope.store.overview import overview
from nanscope.store.pyramid import QUANTITIES
from nanscope.store.text import clean

SHORTEST_CHUNK, LONGEST_CHUNK = 1 << 8, 1 << 13  # rows, or buckets; they bound what one request takes
_UNSOUND = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError)


@dataclass(frozen=True)
class Compacted:
    """What a compacted file holds beside its header.

    Attributes:
        source: the rows of all parts in it.
        events: oldest first, epochs included.
        state, lost: as in `Run`.
        parts: what the file says of each of them.
        tables: the chunked datasets: `columns`, `step`, `time` and the levels of the pyramid.
        file: the bytes of the file.
    """

    source: Source
    events: tuple[Event, ...]
    state: str
    lost: tuple[str, ...]
    parts: tuple[PartRecord, ...]
    tables: Mapping[str, Chunked]
    file: OpenFile


def open_compact(name: str, descriptor: int, header: Header, inventory: Inventory) -> Compacted:
    """Read what is fixed in a compacted file.

    Args:
        name: how messages call it.
        descriptor: the open file. It is closed when the source is forgotten, or at once on an error.
        header: its header.
        inventory: where everything is.

    Raises:
        RunFileError: the file is damaged.
    """
    file = OpenFile(name, descriptor)
    try:
        _check(file, inventory)
        record = json.loads(inventory.texts["state"][0])
        rows = inventory.arrays["series/step"].shape[0]
        parts = [parse_part(item, len(header.columns)) for item in record["parts"]]
        if not parts or sum(part.rows for part in parts) != rows:
            raise ValueError("rows that do not add up")
        tables = _tables(file, inventory, len(header.columns), parts)
        events = [*map(parse_line, inventory.texts.get("findings", [])), *_epochs(file, inventory)]
        state, lost = parse_ending(record)
    except _UNSOUND as error:
        raise file.damaged("does not say consistently what it holds") from error
    source = _source(tables, parts, len(header.columns))
    return Compacted(source, tuple(events), state, lost, tuple(parts), tables, file)


def _check(file: OpenFile, inventory: Inventory) -> None:
    """Hold texts and small numbers against their checksums; chunks have their own."""
    for name in wrong_checksums(inventory, file.read):
        raise file.damaged(f"has a wrong checksum for {clean(name)}")


def _read(file: OpenFile, stored: Stored) -> bytes:
    if stored.nbytes > TABLE_BYTES:
        raise ValueError("a table that is too large")
    return file.read(_offset(stored), stored.nbytes) if stored.nbytes else b""


def _offset(stored: Stored) -> int:
    if stored.offset is None:
        raise ValueError("in chunks")
    return stored.offset


def _tables(
    file: OpenFile, inventory: Inventory, columns: int, parts: list[PartRecord]
) -> dict[str, Chunked]:
    """The chunked datasets by name, once their shapes are as the parts need them."""
    arrays, cache = inventory.arrays, Cache()
    step = arrays["series/step"]
    rows, chunk = step.shape[0], step.chunks[0] if step.chunks else 1

    def table(name: str, dtype: str, series: int) -> Chunked:
        return Chunked(file, cache, name, dtype, series=series, planes=1, length=rows, chunk=chunk, index=0)

    tables = {
        "columns": table("columns", "<f4", columns),
        "step": table("step", "<i8", 1),
        "time": table("time", "<f8", 1),
    }
    for name in LEVELS:
        cells = sum(buckets(part, name) for part in parts)
        width = _width(arrays[name], columns, cells) if cells else 1
        tables[name] = replace(
            tables["columns"], name=short(name), planes=len(QUANTITIES), length=cells, chunk=width
        )
    return {name: replace(found, index=_index(found, arrays)) for name, found in tables.items()}


def _width(stored: Stored, columns: int, cells: int) -> int:
    """Buckets in a chunk of a level."""
    if stored.shape != (columns, len(QUANTITIES), cells) or stored.chunks is None:
        raise ValueError("a pyramid of another shape")
    return stored.chunks[2]


def _index(table: Chunked, arrays: Mapping[str, Stored]) -> int:
    """Where the file says where a dataset's chunks are."""
    if not min(max(1, table.length), SHORTEST_CHUNK) <= table.chunk <= LONGEST_CHUNK:
        raise ValueError("chunks that are too long or too short")
    if not table.length:
        return 0  # there is no chunk to look up
    index = arrays[f"chunks/{table.name}"]
    if (index.shape, index.dtype) != ((table.series, table.chunks, 3), "<u8"):
        raise ValueError("an index of another shape")
    if _offset(index) + index.nbytes > table.file.size:  # so that a small file cannot claim a long run
        raise ValueError("an index beyond the end")
    return _offset(index)


def _epochs(file: OpenFile, inventory: Inventory) -> list[Event]:
    if "epochs/epoch" not in inventory.arrays:
        return []
    table = {}
    for name, field in FIELDS.items():
        stored = inventory.arrays[f"epochs/{name}"]
        if stored.dtype != field.dtype:
            raise ValueError("another type")
        table[name] = np.frombuffer(_read(file, stored), field.dtype).reshape(stored.shape)
    return unfold(table)


def _source(tables: Mapping[str, Chunked], parts: list[PartRecord], columns: int) -> Source:
    pieces: list[Piece] = []
    skipped = dict.fromkeys(LEVELS, 0)
    for part in parts:
        first = pieces[-1].stop if pieces else 0
        source = CompactSource(tables, part, first, dict(skipped))
        pieces.append(Piece(source, first, np.array(part.columns, np.intp)))
        for name in LEVELS:
            skipped[name] += buckets(part, name)
    return pieces[0].source if len(pieces) == 1 else JoinedSource(pieces, columns)


class CompactSource:
    """The rows of one part in a compacted file; columns are those that the part recorded.

    Attributes:
        rows: number of rows.
        levels, thins: as in `overview.Table`.
    """

    def __init__(
        self, tables: Mapping[str, Chunked], part: PartRecord, first: int, skipped: Mapping[str, int]
    ) -> None:
        self.rows = part.rows
        self.levels = part.levels
        self.thins = part.thins
        self._tables = tables
        self._part = part
        self._first = first  # rows of the parts before
        self._skipped = skipped  # buckets of the parts before, by level

    def whole(self) -> tuple[tuple[int, int], ...]:
        """Ranges of rows whose values are kept."""
        return self._part.whole

    def column(self, index: int, start: int, stop: int) -> Floats:
        """One column, shape (stop - start,)."""
        return self._read("columns", self._part.columns[index], start, stop)

    def block(self, start: int, stop: int) -> Floats:
        """All columns, shape (stop - start, columns)."""
        out = np.empty((len(self._part.columns), max(0, stop - start)), np.float32)
        for row, index in zip(out, self._part.columns, strict=True):
            row[:] = self._read("columns", index, start, stop)
        return np.ascontiguousarray(out.T)

    def steps(self, start: int, stop: int) -> NDArray[np.int64]:
        """Step numbers, shape (stop - start,)."""
        return self._read("step", 0, start, stop)

    def times(self, start: int, stop: int) -> NDArray[np.float64]:
        """Seconds since the run began, shape (stop - start,)."""
        return self._read("time", 0, start, stop)

    def overview(self, index: int, bucket: int) -> Overview:
        """One column in buckets of about `bucket` rows."""
        return overview(self, index, bucket)

    def cells(self, level: str, index: int) -> Floats:
        """One column at one level of the pyramid, shape (quantities, buckets)."""
        first = self._skipped[level]
        count = buckets(self._part, level)
        return self._tables[level].read(self._part.columns[index], first, first + count)

    def _read(self, name: str, series: int, start: int, stop: int) -> NDArray[Any]:
        values: NDArray[Any] = self._tables[name].read(series, self._first + start, self._first + stop)[0]
        return values
