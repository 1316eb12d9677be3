"""Fill a compacted file: values are read and compressed on all cores, and written by one thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nanscope.run import MISSING, Floats
from nanscope.store.compaction.codec import is_empty, pack
from nanscope.store.compaction.draft import Draft
from nanscope.store.compaction.file import CompactFile
from nanscope.store.compaction.parallel import in_order
from nanscope.store.compaction.part_record import LEVELS, short

GROUP = 32  # columns that are packed in one go

Progress = Callable[[int], None]


class Job(NamedTuple):
    """Chunks to be packed: the `number`-th one of some series of a dataset; all of them of a pyramid's level.

    `rows` are those that this job completes.
    """

    name: str
    series: range
    number: int = 0
    rows: int = 0


class Packed(NamedTuple):
    """A chunk as it is written, see `CompactFile.put`."""

    name: str
    series: int
    number: int
    data: bytes


class Stopped(Exception):  # noqa: N818 - not an error: somebody wanted it
    """The work was given up."""


def fill(file: CompactFile, draft: Draft, progress: Progress, stop: threading.Event) -> None:
    """Write everything of the draft into the file.

    Args:
        file: new.
        draft: what to write.
        progress: is told how many more rows were written.
        stop: when set, the work is given up.

    Raises:
        OSError: the disk did not take it.
        Stopped: see `stop`.
    """

    def work(job: Job) -> tuple[Job, list[Packed]]:
        return job, list(_pack(job, file, draft))

    for job, chunks in in_order(work, _jobs(file, draft)):
        if stop.is_set():
            raise Stopped
        for chunk in chunks:
            file.put(*chunk)
        if file.through.error is not None:
            raise file.through.error
        progress(job.rows)
    for number, slot in enumerate(draft.slots):
        file.put_snapshot(number, slot)
    file.finish()


def groups(columns: int, size: int = GROUP) -> Iterable[range]:
    """The columns, a few at a time."""
    return (range(first, min(first + size, columns)) for first in range(0, columns, size))


def _jobs(file: CompactFile, draft: Draft) -> Iterator[Job]:
    columns, rows = len(draft.header.columns), draft.source.rows
    for number in range(-(-rows // file.chunk)):
        for series in groups(columns):
            yield Job("columns", series, number)
        yield Job("step", range(1), number)
        yield Job("time", range(1), number, min(file.chunk, rows - number * file.chunk))
    for level in LEVELS:
        for series in groups(columns, 4):
            yield Job(short(level), series)


def _pack(job: Job, file: CompactFile, draft: Draft) -> Iterator[Packed]:
    start = job.number * file.chunk
    stop = min(start + file.chunk, draft.source.rows)
    if job.name == "columns":
        for index in job.series:
            values = draft.values(index, start, stop)
            if not is_empty(values):
                yield Packed(job.name, index, job.number, pack(_padded(values, file.chunk, MISSING)))
    elif job.name in ("step", "time"):
        read = draft.source.steps if job.name == "step" else draft.source.times
        yield Packed(job.name, 0, job.number, pack(_padded(read(start, stop), file.chunk, 0)))
    else:
        yield from _pack_cells(job, file.widths[f"pyramid/{job.name}"], draft)


def _pack_cells(job: Job, width: int, draft: Draft) -> Iterator[Packed]:
    for index in job.series:
        cells = draft.cells(f"pyramid/{job.name}", index)
        for number, first in enumerate(range(0, cells.shape[1], width)):
            part = _padded(cells[:, first : first + width], width, 0)
            yield Packed(job.name, index, number, pack(part))


def _padded(values: NDArray[Any], length: int, filler: Floats | int) -> NDArray[Any]:
    """Values, contiguous, with as many positions as a chunk has."""
    out = np.full((*values.shape[:-1], length), filler, values.dtype)
    out[..., : values.shape[-1]] = values
    return out
