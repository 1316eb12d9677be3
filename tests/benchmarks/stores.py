"""Ways to store the rows of a training, all behind the same few calls, each used as its manual shows it.

As a program, `python -m tests.benchmarks.stores NAME PATH COUNTER COLUMNS PACE`, it stores rows at a pace
until somebody kills it; COUNTER is a small file, mapped into memory, with the number of rows that were taken.
"""

from __future__ import annotations

import logging
import mmap
import os
import sqlite3
import struct
import sys
import zlib
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Protocol

import numpy as np

from nanscope.run import MISSING, Column, Floats, Header
from nanscope.store.reader import open_run
from nanscope.store.writer import RunWriter

COUNT = struct.Struct("<Q")
WORK = bytes(100_000)
BATCH = 64  # rows that Arrow collects: one by one, the names of the columns would outweigh the values


class Store(Protocol):
    """One way to store rows. It is opened by making it."""

    def __init__(self, path: Path, columns: int) -> None: ...

    def append(self, step: int, time: float, row: Floats) -> None:
        """Take one row; this is what the training waits for."""

    def close(self) -> None:
        """Store what is left."""

    @staticmethod
    def series(path: Path, index: int) -> Floats:
        """One column from the file."""

    @staticmethod
    def last(path: Path, rows: int) -> Floats:
        """All columns of the newest rows, shape (rows, columns)."""


class RowFile:
    """The run file in row mode: each row goes to the file at once."""

    mode = "row"

    def __init__(self, path: Path, columns: int) -> None:
        header = Header(tuple(Column(None, f"c{i}") for i in range(columns)))
        self._writer = RunWriter.create(path, header, mode=self.mode)
        self.append, self.close = self._writer.append, self._writer.close

    @staticmethod
    def series(path: Path, index: int) -> Floats:
        """One column from the file."""
        run = open_run(path)
        return run.source.column(index, 0, len(run))

    @staticmethod
    def last(path: Path, rows: int) -> Floats:
        """All columns of the newest rows."""
        run = open_run(path)
        return run.source.block(max(0, len(run) - rows), len(run))


class BatchFile(RowFile):
    """The run file in batch mode: a thread writes every 50 ms."""

    mode = "batch"


class Tensorboard:
    """tensorboardX: one `add_scalar` per value."""

    def __init__(self, path: Path, columns: int) -> None:
        logging.getLogger("tensorboardX.x2num").setLevel(logging.ERROR)  # it tells of every NaN
        self._writer = import_module("tensorboardX").SummaryWriter(str(path))
        self._names = [f"c{i}" for i in range(columns)]
        self.close = self._writer.close

    def append(self, step: int, time: float, row: Floats) -> None:
        """Take one row."""
        for name, value in zip(self._names, row.tolist(), strict=True):
            self._writer.add_scalar(name, value, step, time)

    @staticmethod
    def series(path: Path, index: int) -> Floats:
        """One column: the whole file must be parsed."""
        name = f"c{index}"
        found = [value.simple_value for value in _tensorboard_values(path) if value.tag == name]
        return np.array(found, np.float32)

    @staticmethod
    def last(path: Path, rows: int) -> Floats:
        """All columns of the newest rows that are complete."""
        values = [value.simple_value for value in _tensorboard_values(path)]
        columns = 1 + max((int(v.tag[1:]) for v in _tensorboard_values(path)), default=0)
        whole = len(values) // columns * columns
        return np.array(values[:whole], np.float32).reshape(-1, columns)[-rows:]


class SQLite:
    """SQLite in WAL mode: one row of bytes per step, committed at once, without waiting for the disk."""

    def __init__(self, path: Path, columns: int) -> None:
        del columns
        self._base = sqlite3.connect(path, isolation_level=None)
        self._base.execute("pragma journal_mode=wal")
        self._base.execute("pragma synchronous=normal")
        self._base.execute("create table run (step integer primary key, time real, row blob)")
        self.close = self._base.close

    def append(self, step: int, time: float, row: Floats) -> None:
        """Take one row."""
        self._base.execute("insert into run values (?, ?, ?)", (step, time, row.tobytes()))

    @staticmethod
    def series(path: Path, index: int) -> Floats:
        """One column: every row is read for its one value."""
        query = f"select substr(row, {4 * index + 1}, 4) from run order by step"
        with sqlite3.connect(path) as base:
            return np.frombuffer(b"".join(cell for (cell,) in base.execute(query)), np.float32)

    @staticmethod
    def last(path: Path, rows: int) -> Floats:
        """All columns of the newest rows."""
        with sqlite3.connect(path) as base:
            found = base.execute("select row from run order by step desc limit ?", (rows,)).fetchall()
        return np.array([np.frombuffer(row, np.float32) for (row,) in reversed(found)])


class Arrow:
    """An Arrow IPC stream, a record batch every 64 rows."""

    def __init__(self, path: Path, columns: int) -> None:
        self._arrow = import_module("pyarrow")
        types = [("step", self._arrow.int64()), ("time", self._arrow.float64())]
        types += [(f"c{i}", self._arrow.float32()) for i in range(columns)]
        self._schema = self._arrow.schema(types)
        self._file = self._arrow.OSFile(str(path), "wb")
        self._stream = self._arrow.ipc.new_stream(self._file, self._schema)
        self._steps, self._times = np.empty(BATCH, np.int64), np.empty(BATCH, np.float64)
        self._rows = np.empty((columns, BATCH), np.float32)
        self._waiting = 0

    def append(self, step: int, time: float, row: Floats) -> None:
        """Take one row."""
        self._steps[self._waiting], self._times[self._waiting] = step, time
        self._rows[:, self._waiting] = row
        self._waiting += 1
        if self._waiting == BATCH:
            self._write()

    def close(self) -> None:
        """Store what is left."""
        self._write()
        self._stream.close()
        self._file.close()

    def _write(self) -> None:
        arrays = [column[: self._waiting] for column in (self._steps, self._times, *self._rows)]
        self._stream.write_batch(
            self._arrow.record_batch([self._arrow.array(array) for array in arrays], schema=self._schema)
        )
        self._waiting = 0

    @staticmethod
    def series(path: Path, index: int) -> Floats:
        """One column of the batches that are whole."""
        columns = [batch.column(2 + index).to_numpy() for batch in _arrow_batches(path)]
        return np.concatenate(columns or [np.empty(0, np.float32)])

    @staticmethod
    def last(path: Path, rows: int) -> Floats:
        """All columns of the newest rows of the batches that are whole."""
        batches = list(_arrow_batches(path))[-(2 + rows // BATCH) :]
        tables = [np.stack([column.to_numpy() for column in batch.columns[2:]], axis=1) for batch in batches]
        return np.concatenate(tables or [np.empty((0, 0), np.float32)])[-rows:]


STORES: dict[str, type[Store]] = {
    "nanscope, row mode": RowFile,
    "nanscope, batch mode": BatchFile,
    "SQLite, WAL": SQLite,
    "Arrow IPC": Arrow,
    "tensorboardX": Tensorboard,
}
NEEDS = {"Arrow IPC": "pyarrow", "tensorboardX": "tensorboardX"}


def installed(name: str) -> bool:
    """Whether the store can be tried here."""
    return name not in NEEDS or find_spec(NEEDS[name]) is not None


def rows_of(store: type[Store], path: Path) -> int:
    """Rows of which every column can be read."""
    return min(len(store.series(path, 0)), len(store.last(path, sys.maxsize)))


def size_of(path: Path) -> int:
    """Bytes that a file, what lies beside it under its name, or a folder takes on the disk."""
    files = [file for start in path.parent.glob(f"{path.name}*") for file in (start, *start.rglob("*"))]
    return sum(512 * file.stat().st_blocks for file in files if file.is_file())


def norms(rows: int, columns: int, seed: int = 0) -> Floats:
    """Rows as a recorder makes them: norms that drift and jitter, counts of zero, stats measured at times."""
    random = np.random.default_rng(seed)
    drift = np.cumsum(random.normal(0, 0.003, (rows, columns)), axis=0)
    table = np.exp(drift + random.normal(0, 0.2, (rows, columns))).astype(np.float32)
    kind = np.arange(columns) % 5
    table[:, kind == 3] = 0
    table[np.ix_(np.arange(rows) % 100 != 0, kind == 4)] = MISSING
    return table


def train_until(moment: float) -> None:
    """Be busy like a training: computing, mostly without Python's lock, until the clock shows `moment`."""
    while perf_counter() < moment:
        zlib.crc32(WORK)


def _tensorboard_values(path: Path) -> Iterator[object]:
    event = import_module("tensorboardX.proto.event_pb2").Event
    for file in sorted(path.iterdir()):
        data, at = file.read_bytes(), 0
        while at + 12 <= len(data):  # length, its CRC, the event, its CRC
            (length,) = COUNT.unpack_from(data, at)
            if at + 16 + length > len(data):
                break
            yield from event.FromString(data[at + 12 : at + 12 + length]).summary.value
            at += 16 + length


def _arrow_batches(path: Path) -> Iterator[object]:
    arrow = import_module("pyarrow")
    with arrow.memory_map(str(path)) as file:
        try:
            yield from arrow.ipc.open_stream(file)
        except (arrow.ArrowInvalid, OSError):  # cut off within a batch, or before the first
            return


def main() -> None:
    """Store rows until killed."""
    name, path, counter, columns, pace = sys.argv[1:]
    table = norms(4096, int(columns))
    store = STORES[name](Path(path), int(columns))
    shared = mmap.mmap(os.open(counter, os.O_RDWR), COUNT.size)
    begin, row = perf_counter(), 0
    while True:
        train_until(begin + row * float(pace))
        store.append(row, row * float(pace), table[row % len(table)])
        row += 1
        COUNT.pack_into(shared, 0, row)


if __name__ == "__main__":
    main()
