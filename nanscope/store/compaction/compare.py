"""Read a compacted file as every reader does, and hold it against what it was made of, bit by bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nanscope.errors import RunFileError
from nanscope.store.compaction.compacted import Compacted, open_compact
from nanscope.store.compaction.draft import Draft
from nanscope.store.compaction.file import CHUNK_ROWS
from nanscope.store.compaction.fill import Progress, groups
from nanscope.store.compaction.fold import fold
from nanscope.store.compaction.parallel import in_order
from nanscope.store.compaction.part_record import LEVELS
from nanscope.store.contents import Contents, open_contents
from nanscope.store.journal import to_json


class _Job(NamedTuple):
    """Columns to compare over some rows; rows: those that it ends."""

    series: range
    start: int
    stop: int
    rows: int


def compare(path: Path, draft: Draft, progress: Progress) -> None:
    """See that a compacted file holds the draft, all of it and nothing else.

    Args:
        path: the file.
        draft: what it was made of.
        progress: is told how many more rows were compared.

    Raises:
        RunFileError: it does not.
    """
    contents, descriptor = open_contents(path, str(path))
    copy = open_compact(str(path), descriptor, contents.header, contents.inventory)
    _compare_fixed(draft, contents, copy)
    _compare_snapshots(draft, contents, copy)

    def work(job: _Job) -> int:
        _compare_rows(draft, copy, job)
        return job.rows

    for rows in in_order(work, _jobs(draft)):
        progress(rows)
    for _ in in_order(
        lambda series: _compare_cells(draft, copy, series), groups(len(draft.header.columns), 4)
    ):
        pass


def _jobs(draft: Draft) -> Iterator[_Job]:
    rows, columns = draft.source.rows, len(draft.header.columns)
    for start in range(0, rows, CHUNK_ROWS):
        stop = min(start + CHUNK_ROWS, rows)
        for series in groups(columns):
            yield _Job(series, start, stop, stop - start if series.stop == columns else 0)


def _compare_fixed(draft: Draft, contents: Contents, copy: Compacted) -> None:
    original = draft.first.contents
    expected = (draft.header.columns, original.host, original.run_id, original.part, draft.count)
    found = (contents.header.columns, contents.host, contents.run_id, contents.part, contents.parts)
    _require(found == expected, "its columns or its identity")
    _require(_texts(contents.header) == _texts(draft.header), "its configuration")
    rest, epochs = fold(copy.events)
    _require(to_json(rest) == to_json(draft.events), "its events")
    _require(_same_tables(epochs, draft.epochs), "its epochs")
    _require((copy.state, copy.lost) == (draft.state, draft.lost), "its state")
    _require((copy.parts, copy.source.rows) == (draft.records, draft.source.rows), "its parts")


def _texts(header: Any) -> str:
    return to_json({**asdict(header), "columns": None})


def _compare_rows(draft: Draft, copy: Compacted, job: _Job) -> None:
    a, b = job.start, job.stop
    for index in job.series:
        values = copy.source.column(index, a, b)
        _require(_same(draft.values(index, a, b), values), f"column {index} between rows {a} and {b}")
    if job.rows:
        _require(_same(draft.source.steps(a, b), copy.source.steps(a, b)), f"steps of rows {a} to {b}")
        _require(_same(draft.source.times(a, b), copy.source.times(a, b)), f"times of rows {a} to {b}")


def _compare_snapshots(draft: Draft, contents: Contents, copy: Compacted) -> None:
    for number, slot in enumerate(draft.slots):
        stored = contents.inventory.arrays[f"snapshots/slot{number}"]
        _require(stored.nbytes == slot.nbytes, f"the size of snapshot {number}")
        offset = stored.offset or 0
        for piece in slot.pieces():
            _require(copy.file.read(offset, len(piece)) == piece.tobytes(), f"snapshot {number}")
            offset += len(piece)


def _compare_cells(draft: Draft, copy: Compacted, series: range) -> None:
    for level in LEVELS:
        count = draft.buckets(level)
        for index in series:
            found = copy.tables[level].read(index, 0, count)
            _require(_same(draft.cells(level, index), found), f"{level} of column {index}")


def _same_tables(a: Mapping[str, NDArray[Any]], b: Mapping[str, NDArray[Any]]) -> bool:
    return a.keys() == b.keys() and all(_same(a[name], b[name]) for name in a)


def _same(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Whether two arrays hold the same bits."""
    kind = f"u{a.itemsize}"
    return a.shape == b.shape and bool(
        (np.ascontiguousarray(a).view(kind) == np.ascontiguousarray(b).view(kind)).all()
    )


def _require(same: bool, what: str) -> None:
    if not same:
        raise RunFileError(f"the compacted copy differs in {what}")
