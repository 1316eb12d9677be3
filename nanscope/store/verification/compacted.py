"""The checks of a compacted run file: chunks, where they are, steps, summaries."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanscope.errors import RunFileError
from nanscope.numbers import count
from nanscope.run import MISSING_BITS, Floats, Source, is_missing
from nanscope.store.contents import Contents
from nanscope.store.guard.chunk_map import chunk_map
from nanscope.store.guard.watched import read_at
from nanscope.store.pyramid import QUANTITIES
from nanscope.store.verification.recount import disagreements
from nanscope.store.verification.tally import Tally

_COLUMNS = 256  # whose summaries are in memory at once
_ROWS = 4096  # that are counted again at once; a multiple of every bucket
_ABSENT = 2**64 - 1  # offset of a chunk that is all MISSING and not stored
_ROUNDED = 3e-4  # relative error that 12 bits of mantissa allow, in a value and in its summary


@dataclass(frozen=True)
class _Table:
    """One list of chunks: its entries (offset, size, CRC-32), shape (series, chunks, 3)."""

    name: str
    datasets: tuple[tuple[str, tuple[int, ...]], ...]
    width: int
    itemsize: int
    planes: int
    entries: NDArray[np.uint64]


def check_compact(name: str, descriptor: int, contents: Contents, source: Source, tally: Tally) -> None:
    """Check one file; `source` has the rows of all parts in it."""
    tables = {table.name: table for table in _tables(descriptor, contents)}
    for table in tables.values():
        _check_chunks(descriptor, table, tally)
    _check_places(name, descriptor, tables, tally)
    damaged = _check_steps(source, tally)
    if not damaged:
        _check_summaries(descriptor, contents, tables, source, tally)


def _tables(descriptor: int, contents: Contents) -> Iterator[_Table]:
    arrays = contents.inventory.arrays
    for path, stored in arrays.items():
        if not path.startswith("chunks/") or stored.offset is None:
            continue
        if len(stored.shape) != 3 or stored.shape[2] != 3 or stored.dtype != "<u8":
            continue  # no list of chunks, but something of a later version
        name = path.removeprefix("chunks/")
        entries = np.frombuffer(read_at(descriptor, stored.nbytes, stored.offset), "<u8")
        spots = _spots(name, stored.shape[0], descriptor, contents)
        sample = arrays[spots[0][0]]
        width = sample.chunks[-1] if sample.chunks else 1
        planes = len(QUANTITIES) if spots[0][0].startswith("pyramid/") else 1
        itemsize = int(sample.dtype[-1])
        yield _Table(name, spots, width, itemsize, planes, entries.reshape(stored.shape))


def _spots(
    name: str, series: int, descriptor: int, contents: Contents
) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """For each series its dataset, and where in it."""
    if name in ("step", "time"):
        return ((f"series/{name}", ()),)
    if name != "columns":
        return tuple((f"pyramid/{name}", (i, 0)) for i in range(series))
    sites, stats = (
        np.frombuffer(read_at(descriptor, stored.nbytes, stored.offset or 0), "<i4").tolist()
        for stored in (contents.inventory.arrays[f"columns/{key}"] for key in ("site", "stat"))
    )
    pairs = zip(sites, stats, strict=True)
    return tuple(
        ("series/scalars", (stat,)) if site == -1 else ("series/values", (site, stat)) for site, stat in pairs
    )


def _check_chunks(descriptor: int, table: _Table, tally: Tally) -> None:
    """Every chunk is there, has its checksum, and holds as many bytes as it should."""
    plain = table.width * table.itemsize * table.planes
    for series, entries in enumerate(table.entries.tolist()):
        for number, (offset, size, crc) in enumerate(entries):
            if offset == _ABSENT:
                continue
            tally.count("chunks")
            where = _place(table, series, number, tally)
            data = read_at(descriptor, min(size, 2 * plain + 64), offset) if offset < 2**62 else b""
            begin = zlib.crc32(f"{table.name} {series} {number}".encode())
            if len(data) != size or zlib.crc32(data, begin) != crc:
                tally.problem(f"{where}: the checksum is wrong")
            elif _inflated(data, plain) != plain:
                tally.problem(f"{where}: it does not hold the right number of values")


def _inflated(data: bytes, limit: int) -> int:
    try:
        return len(zlib.decompressobj().decompress(data, limit + 1))
    except zlib.error:
        return -1


def _place(table: _Table, series: int, number: int, tally: Tally) -> str:
    rows = f"rows {count(number * table.width)} to {count((number + 1) * table.width - 1)}"
    if table.name == "columns":
        return f"{tally.series(series)}, {rows}"
    if table.name in ("step", "time"):
        return f"{table.name} of {rows}"
    return f"summaries {table.name} of {tally.series(series)}, chunk {number}"


def _check_places(name: str, descriptor: int, tables: Mapping[str, _Table], tally: Tally) -> None:
    """The file's own list and libhdf5 agree on where the chunks are."""
    ours: dict[str, dict[tuple[int, ...], tuple[int, int]]] = {}
    for table in tables.values():
        for (dataset, spot), entries in zip(table.datasets, table.entries.tolist(), strict=True):
            stored = {
                (*spot, number * table.width): (offset, size)
                for number, (offset, size, _) in enumerate(entries)
                if offset != _ABSENT
            }
            ours.setdefault(dataset, {}).update(stored)
    try:
        theirs, fill = chunk_map(descriptor, name)
    except RunFileError as error:
        tally.problem(error.message)
        return
    for dataset in sorted({*ours, *theirs}):
        mine, other = ours.get(dataset, {}), theirs.get(dataset, {})
        wrong = {spot for spot in {*mine, *other} if mine.get(spot) != other.get(spot)}
        if wrong:
            tally.problem(
                f"{dataset}: libhdf5 finds {count(len(wrong))} chunks elsewhere, first {min(wrong)}"
            )
    for dataset, bits in fill.items():
        if dataset.startswith("series/") and bits != MISSING_BITS:
            tally.problem(f"{dataset}: what was not measured reads as {bits:#x}, not as missing")


def _check_steps(source: Source, tally: Tally) -> bool:
    """Whether steps and times cannot be read; says so where they are wrong."""
    try:
        steps, times = source.steps(0, source.rows), source.times(0, source.rows)
    except RunFileError:
        return True  # the chunk has been told
    tally.count("steps", len(steps))
    for row in np.flatnonzero(np.diff(steps) <= 0).tolist():
        tally.problem(f"row {count(row + 1)}: step {steps[row + 1]} comes after step {steps[row]}")
    for row in np.flatnonzero(~np.isfinite(times)).tolist():
        tally.problem(f"step {steps[row]}: its time is no number")
    return False


def _check_summaries(
    descriptor: int, contents: Contents, tables: Mapping[str, _Table], source: Source, tally: Tally
) -> None:
    """Part by part: the summaries of each begin with its own first row."""
    rounded = contents.inventory.attributes.get("precision") == "12bit"
    begin = dict.fromkeys(tables, 0)
    first = 0
    for part in json.loads(contents.inventory.texts["state"][0])["parts"]:
        rows, columns = part["rows"], part["columns"]
        buckets = {path.removeprefix("pyramid/"): bucket for path, bucket in part["levels"].items()}
        for start in range(0, len(columns), _COLUMNS):
            group = columns[start : start + _COLUMNS]
            levels = [
                _Level(descriptor, tables[name], begin[name], bucket, group)
                for name, bucket in buckets.items()
                if name in tables
            ]
            values = _Values(source, first, rows, tuple(group), thins=part["thins"])
            _check_group(values, levels, _ROUNDED if rounded else 0.0, tally)
        for name, bucket in buckets.items():
            begin[name] = begin.get(name, 0) - (-rows // bucket)
        first += rows


@dataclass(frozen=True)
class _Values:
    """The values of some columns in one part."""

    source: Source
    first: int
    rows: int
    columns: tuple[int, ...]
    thins: bool

    def read(self, start: int, stop: int) -> Floats:
        """Rows start..stop of the part, shape (rows, columns)."""
        low, high = self.first + start, self.first + stop
        return np.stack([self.source.column(index, low, high) for index in self.columns], axis=1)


class _Level:
    """One level of the pyramid for some columns of one part."""

    def __init__(
        self, descriptor: int, table: _Table, begin: int, bucket: int, columns: Sequence[int]
    ) -> None:
        self.bucket = bucket
        self._descriptor, self._table, self._begin, self._columns = descriptor, table, begin, columns
        self._number, self._chunk = -1, np.empty((0, 0, 0), np.float32)

    def cells(self, start: int, stop: int) -> Floats:
        """Buckets start..stop, shape (columns, quantities, buckets)."""
        width = self._table.width
        low, high = self._begin + start, self._begin + stop
        pieces = []
        for number in range(low // width, -(-high // width)):
            chunk = self._load(number)
            pieces.append(chunk[..., max(0, low - number * width) : high - number * width])
        return np.concatenate(pieces, axis=2)

    def _load(self, number: int) -> Floats:
        if number != self._number:
            self._number, self._chunk = number, np.stack([self._one(i, number) for i in self._columns])
        return self._chunk

    def _one(self, column: int, number: int) -> Floats:
        """A chunk of one column, shape (quantities, width); NaN where it is damaged, which was told."""
        shape = (self._table.planes, self._table.width)
        offset, size, _ = self._table.entries[column, number].tolist()
        plain = 4 * shape[0] * shape[1]
        try:
            data = zlib.decompressobj().decompress(read_at(self._descriptor, size, offset), plain)
            bytes_of = np.frombuffer(data, np.uint8).reshape(4, -1).T
            return np.ascontiguousarray(bytes_of).view("<f4").reshape(shape)
        except (zlib.error, ValueError, OSError, OverflowError):
            return np.full(shape, np.nan, np.float32)


def _check_group(values: _Values, levels: Sequence[_Level], error: float, tally: Tally) -> None:
    for start in range(0, values.rows, _ROWS):
        stop = min(start + _ROWS, values.rows)
        try:
            table = values.read(start, stop)
        except RunFileError:
            continue  # the chunk has been told
        gone = np.asarray(is_missing(table).all(axis=1)) & values.thins
        for level in levels:
            stored = level.cells(start // level.bucket, -(-stop // level.bucket))
            tally.count("summaries", stored[:, 0].size)
            for found in disagreements(stored, table, level.bucket, error):
                rows = slice(found.cell * level.bucket, (found.cell + 1) * level.bucket)
                if not gone[rows].any():  # of thinned rows the summaries are all that is left
                    low, high = (values.first + start + row for row in (rows.start, rows.stop - 1))
                    named = found._replace(column=values.columns[found.column])
                    tally.disagreement(named, f"rows {count(low)} to {count(high)}")
        tally.advance((stop - start) * len(values.columns) // max(1, tally.width))
