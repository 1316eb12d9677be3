"""The long run of `runfile.py`: its size, and the time that it takes to open it and to look at it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from time import perf_counter

from rich.table import Table

from nanscope.run import Column, Header, Run
from nanscope.store.compaction.compact import compact
from nanscope.store.reader import open_run
from nanscope.store.writer import RunWriter
from tests.benchmarks.stores import norms

PIECE = 1 << 16  # rows made at a time; longer than what gzip can look back
LAST, SERIES, BUCKETS = 1000, 20, 1000
OPEN, ONE_SERIES, LAST_ROWS, OVERVIEW = (
    "open",
    "one series",
    f"last {LAST:,} rows of everything",
    f"overview of {SERIES} series",
)
BARS = {OPEN: 100.0, ONE_SERIES: 50.0, LAST_ROWS: 20.0, OVERVIEW: 10.0}  # milliseconds


def milliseconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    begin = perf_counter()
    call()
    return 1e3 * (perf_counter() - begin)


def write(path: Path, rows: int, columns: int) -> RunWriter:
    """A run file with so many rows, still open."""
    header = Header(tuple(Column(None, f"c{i}") for i in range(columns)))
    writer = RunWriter.create(path, header, capacity=rows)
    for start in range(0, rows, PIECE):
        for i, row in enumerate(norms(min(PIECE, rows - start), columns, start), start):
            writer.append(i, i / 1e3, row)
    return writer


QUESTIONS: dict[str, Callable[[Run], object]] = {
    ONE_SERIES: lambda run: run.source.column(7, 0, len(run)),
    LAST_ROWS: lambda run: run.source.block(len(run) - LAST, len(run)),
    OVERVIEW: lambda run: [run.source.overview(i, len(run) // BUCKETS) for i in range(SERIES)],
}


def forget(path: Path) -> None:
    """Ask the system to drop the file from its page cache."""
    descriptor = os.open(path, os.O_RDWR)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def answers(path: Path, repeats: int, before: Callable[[Path], None]) -> dict[str, float]:
    """Median milliseconds of each question on a run that was just opened."""
    found: dict[str, list[float]] = {name: [] for name in QUESTIONS}
    for _ in range(repeats):
        for name, ask in QUESTIONS.items():
            run = open_run(path)
            before(path)
            found[name].append(milliseconds(lambda run=run, ask=ask: ask(run)))
    return {name: median(times) for name, times in found.items()}


def opening(path: Path, repeats: int) -> float:
    """Median milliseconds to open the run, each time for the first time in a process of its own."""
    program = (
        "import sys; from tests.benchmarks.length import milliseconds, open_run\n"
        "print(milliseconds(lambda: open_run(sys.argv[1])))"
    )
    words = [sys.executable, "-c", program, str(path)]
    return median(float(subprocess.check_output(words)) for _ in range(repeats))


def tables(folder: Path, rows: int, columns: int, repeats: int) -> Iterator[Table]:
    """The tables, each when it is measured."""
    path = folder / "killed.h5"
    yield _opening_table(path, rows, columns, repeats)
    path.unlink()
    path = folder / "long.h5"
    write(path, rows, columns).close()
    yield _questions_table(path, f"{rows:,} steps, {columns} values, live layout: ms", rows, repeats)
    begin = perf_counter()
    compact(path)
    title = f"the same run compacted (in {perf_counter() - begin:.0f} s): ms"
    yield _questions_table(path, title, rows, repeats)


def _opening_table(path: Path, rows: int, columns: int, repeats: int) -> Table:
    table = Table("open", "ms", "bar", title=f"{rows:,} steps, {columns} values")
    words = [sys.executable, "-m", "tests.benchmarks.length", str(path), str(rows), str(columns)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"written\n"
            assert open_run(path).state == "live"
            table.add_row("live", *_cells(OPEN, opening(path, repeats)))
        finally:
            child.kill()
    assert open_run(path).state == "killed"
    table.add_row("after a SIGKILL", *_cells(OPEN, opening(path, repeats)))
    forget(path)
    table.add_row("after a SIGKILL, cold", *_cells(OPEN, opening(path, 1)))
    return table


def _questions_table(path: Path, title: str, rows: int, repeats: int) -> Table:
    table = Table("", "warm", "bar", "cold", title=title)
    opened = opening(path, repeats)
    warm, cold = answers(path, repeats, lambda _: None), answers(path, max(1, repeats // 3), forget)
    forget(path)
    table.add_row(OPEN, *_cells(OPEN, opened), f"{opening(path, 1):,.1f}")
    for name in QUESTIONS:
        table.add_row(name, *_cells(name, warm[name]), f"{cold[name]:,.1f}")
    table.add_row("bytes per step", f"{512 * path.stat().st_blocks / rows:,.0f}", "", "")
    return table


def _cells(question: str, found: float) -> tuple[str, str]:
    bar = BARS[question]
    return f"{found:,.1f}", f"<= {bar:g} ms: {'met' if found <= bar else 'MISSED'}"


def main() -> None:
    """Write a run and stay there with the file open, until somebody kills this process."""
    path, rows, columns = sys.argv[1:]
    writer = write(Path(path), int(rows), int(columns))
    print("written", flush=True)
    signal.pause()
    writer.close()


if __name__ == "__main__":
    main()
