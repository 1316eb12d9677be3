"""A run as one wide table for other programs: a row per step, a column per series.

The columns are `step`, `time`, the scalars by name and each stat of each site as `fc2.output.l2`. Rows go
from the run file to the table a window at a time, so the memory does not grow with the run. NaN and
infinities are kept; what was not measured is empty (csv), null (parquet) or no point (tensorboard), which is
not the same.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from nanscope.errors import NotRecordedError, UsageError
from nanscope.run import Column, Floats, Run, is_missing

Report = Callable[[int, int], None]
"""Is told the rows that are done and all rows, after each window."""

_CSV_VALUES = 1 << 18  # of one window; as text about 30 MB
_PARQUET_VALUES = 1 << 22  # of one window, which becomes a row group
_FORMULA = ("=", "+", "-", "@")  # a cell that begins so is run as a formula by spreadsheets


@dataclass(frozen=True, slots=True)
class Selection:
    """What of a run is exported.

    Attributes:
        columns: positions in a row of the run.
        names: the names of these columns in the table, unique, and none of them `step` or `time`.
        start, stop: the rows.
    """

    columns: tuple[int, ...]
    names: tuple[str, ...]
    start: int
    stop: int


def select(
    run: Run, patterns: Sequence[str] = (), steps: tuple[int | None, int | None] = (None, None)
) -> Selection:
    """Choose columns and rows.

    Args:
        run: the run.
        patterns: shell patterns for sites (`fc2.*`), series (`*.l2`) or scalars (`loss`); none means all.
        steps: first step and the step to stop before; None is the end of the run on that side.

    Raises:
        NotRecordedError: a pattern fits nothing.
        UsageError: the steps are in the wrong order, or the run has none of them.
    """
    first, end = steps
    if first is not None and end is not None and first >= end:
        raise UsageError(f"no step is from {first} on and before {end}", "write --steps FIRST:END")
    named = [(i, column) for i, column in enumerate(run.header.columns) if column.stat]
    for pattern in patterns:
        if not any(_fits(column, pattern) for _, column in named):
            raise NotRecordedError(
                f"nothing in {run.name} is called {pattern}", f"see nanscope info {run.name}"
            )
    chosen = [(i, c) for i, c in named if not patterns or any(_fits(c, pattern) for pattern in patterns)]
    steps_of = np.maximum.accumulate(run.steps)  # those of a damaged file may have gaps
    start = 0 if first is None else int(np.searchsorted(steps_of, first))
    stop = len(run) if end is None else int(np.searchsorted(steps_of, end))
    if start >= stop and len(run):
        ends = f"{run.steps[0]} to {run.steps[-1]}"
        raise UsageError(f"{run.name} has no such step", f"its steps are {ends}")
    names = _unique([_name(column) for _, column in chosen])
    return Selection(tuple(i for i, _ in chosen), names, start, stop)


def write_csv(run: Run, selection: Selection, out: IO[bytes], report: Report) -> None:
    """Write UTF-8 text with a line of names. A float is the shortest text that gives the same float32 back.

    A name that a spreadsheet would take for a formula gets an apostrophe in front.

    Raises:
        RunFileError: the run file is damaged.
        OSError: `out` cannot be written.
    """
    out.write(_header_line(selection.names))
    for start, stop in _windows(selection, _CSV_VALUES):
        steps, times = _known(run.source.steps(start, stop)), _known(run.source.times(start, stop))
        texts = [_texts(run.source.column(index, start, stop)) for index in selection.columns]
        cells = zip(map(_cell, steps), map(_cell, times), *texts, strict=True)
        out.write("".join(",".join(row) + "\n" for row in cells).encode())
        report(stop - selection.start, selection.stop - selection.start)


def write_parquet(run: Run, selection: Selection, out: IO[bytes], report: Report) -> None:
    """Write a Parquet file: int64, float64, then nullable float32 columns; one row group a window.

    Raises:
        UsageError: pyarrow is not installed.
        RunFileError: the run file is damaged.
        OSError: `out` cannot be written.
    """
    arrow, parquet = _pyarrow()
    fields = [("step", arrow.int64()), ("time", arrow.float64())]
    schema = arrow.schema(fields + [(name, arrow.float32()) for name in selection.names])
    with parquet.ParquetWriter(out, schema) as writer:
        for start, stop in _windows(selection, _PARQUET_VALUES):
            arrays = [
                arrow.array(_known(run.source.steps(start, stop)), arrow.int64()),
                arrow.array(_known(run.source.times(start, stop)), arrow.float64()),
            ]
            for index in selection.columns:
                values = run.source.column(index, start, stop)
                arrays.append(arrow.array(values, mask=is_missing(values)))
            writer.write_batch(arrow.record_batch(arrays, schema=schema))
            report(stop - selection.start, selection.stop - selection.start)


def write_tensorboard(run: Run, selection: Selection, out: IO[bytes], report: Report) -> None:
    """Write a TensorBoard event file: an event a step at its wall time, a scalar for each value measured.

    The tag of a series is `fc2.output/l2`: TensorBoard makes a section of what stands before the first slash.

    Raises:
        UsageError: tensorboard is not installed.
        RunFileError: the run file is damaged.
        OSError: `out` cannot be written.
    """
    event, records = _tensorboard()
    began, writer = run.header.created, records.RecordWriter(out)
    writer.write(event.Event(wall_time=began, file_version="brain.Event:2").SerializeToString())
    tags = _unique([_name(run.header.columns[index], "/") for index in selection.columns])
    for start, stop in _windows(selection, _CSV_VALUES):
        steps, times = _known(run.source.steps(start, stop)), _known(run.source.times(start, stop))
        columns = [run.source.column(index, start, stop) for index in selection.columns]
        for row, (step, time) in enumerate(zip(steps, times, strict=True)):
            if step is None or time is None:
                continue  # a point needs both
            one = event.Event(wall_time=began + time, step=step)
            _put_scalars(one.summary, tags, np.array([column[row] for column in columns], np.float32))
            writer.write(one.SerializeToString())
        report(stop - selection.start, selection.stop - selection.start)


WRITERS: dict[str, Callable[[Run, Selection, IO[bytes], Report], None]] = {
    "csv": write_csv,
    "parquet": write_parquet,
    "tensorboard": write_tensorboard,
}


def event_file(run: Run, folder: Path) -> Path:
    """Where TensorBoard looks for a run: in a subfolder of its log folder, by a name that it knows."""
    return folder / Path(run.name).stem / f"events.out.tfevents.{int(run.header.created)}.nanscope"


def _pyarrow() -> tuple[Any, Any]:
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        advice = "pip install 'nanscope[parquet]', or use --to csv"
        raise UsageError("parquet needs pyarrow", advice) from None


def _tensorboard() -> tuple[Any, Any]:
    try:
        names = ("tensorboard.compat.proto.event_pb2", "tensorboard.summary.writer.record_writer")
        event, records = map(import_module, names)
    except ImportError:
        advice = "pip install 'nanscope[tensorboard]', or use --to csv"
        raise UsageError("event files need tensorboard", advice) from None
    return event, records


def _put_scalars(summary: Any, tags: Sequence[str], values: Floats) -> None:
    for i in np.flatnonzero(~is_missing(values)).tolist():
        summary.value.add(tag=tags[i], simple_value=values[i])


def _windows(selection: Selection, values: int) -> Iterator[tuple[int, int]]:
    rows = max(64, values // (2 + len(selection.columns)))
    for start in range(selection.start, selection.stop, rows):
        yield start, min(start + rows, selection.stop)


def _known(values: NDArray[np.int64] | NDArray[np.float64]) -> list[Any]:
    """Steps or times; None where a damaged file does not tell them."""
    return [value if value >= 0 else None for value in values.tolist()]


def _cell(value: float | None) -> str:
    return "" if value is None else str(value)


def _texts(values: Floats) -> list[str]:
    texts = [str(value) for value in values]
    for i in np.flatnonzero(is_missing(values)):
        texts[i] = ""
    return texts


def _header_line(names: Sequence[str]) -> bytes:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(["step", "time", *map(_no_formula, names)])
    return line.getvalue().encode()


def _no_formula(name: str) -> str:
    return f"'{name}" if name.lstrip().startswith(_FORMULA) else name


def _fits(column: Column, pattern: str) -> bool:
    names = [_name(column)] if column.site is None else [_name(column), str(column.site)]
    return any(fnmatchcase(name, pattern) for name in names)


def _name(column: Column, mark: str = ".") -> str:
    return column.stat if column.site is None else f"{column.site}{mark}{column.stat}"


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    """The names; one that is taken gets a number."""
    uses: Counter[str] = Counter()
    unique = ["step", "time"]
    taken = set(unique)
    for name in names:
        free = name
        while free in taken:
            uses[name] += 1
            free = f"{name}_{uses[name] + 1}"
        taken.add(free)
        unique.append(free)
    return tuple(unique[2:])
