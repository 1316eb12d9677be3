"""What the run file costs and gives, beside other ways to store rows: `python -m tests.benchmarks.runfile`.

- cost: microseconds that the training waits for one row. Between two rows it computes, without Python's
  lock, so that the writers' threads run beside it as they do in a real training. All stores get the same rows
  at the same pace, one after the other in each round; the median of the rounds is printed, of the maximum the
  largest.
- kills: SIGKILL at random moments, and how many of the rows that `append` had taken can be read afterwards.
- reading: the same questions to a file of each store.
- length: a run of 1.8 million steps: bytes per step, and how long it takes to open it and to look at it.

The bars that nanscope holds itself to stand in the tables.
"""

from __future__ import annotations

import gc
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter, perf_counter_ns

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from nanscope.run import Floats
from tests.benchmarks import length
from tests.benchmarks.stores import (
    COUNT,
    STORES,
    Store,
    installed,
    norms,
    rows_of,
    size_of,
    train_until,
)

WIDTHS = (90, 230, 2150)
WIDTH = 230  # 20 sites with 10 stats each and 30 scalars
BARS = {"nanscope, row mode": 10.0, "nanscope, batch mode": 3.0}  # microseconds, median, at 230 values
WARM_UP = 50  # rows that are not counted
LAST = 1000
PATIENCE = 3.0  # seconds that a store may be behind the pace


def costs(store: type[Store], path: Path, columns: int, steps: int, pace: float) -> NDArray[np.float64]:
    """Microseconds that each append took; ends early with a store that is far behind the pace."""
    table = norms(min(steps, 4096), columns)
    writer = store(path, columns)
    taken = np.empty(steps)
    gc.collect()
    begin = perf_counter()
    for i in range(steps):
        train_until(begin + i * pace)
        row = table[i % len(table)]
        start = perf_counter_ns()
        writer.append(i, i * pace, row)
        taken[i] = perf_counter_ns() - start
        if i > 2 * WARM_UP and perf_counter() - begin > i * pace + PATIENCE:
            break
    writer.close()
    return taken[WARM_UP : i + 1] / 1e3


def remove(path: Path) -> None:
    """Remove a file with what lies beside it, or a folder."""
    for file in path.parent.glob(f"{path.name}*"):
        shutil.rmtree(file) if file.is_dir() else file.unlink()


def cost_table(folder: Path, rounds: int, steps: int, pace: float) -> Table:
    """Microseconds per row: median / 99th percentile / maximum."""
    title = f"us per step in the training's thread, {1e3 * pace:g} ms per step: median / p99 / max"
    table = Table("", *(f"{width} values" for width in WIDTHS), f"bar at {WIDTH}", title=title)
    found: dict[tuple[str, int], list[NDArray[np.float64]]] = {}
    for number in track(range(rounds), "cost"):
        for width in WIDTHS:
            for name in filter(installed, STORES):
                path = folder / f"cost{number}"
                found.setdefault((name, width), []).append(costs(STORES[name], path, width, steps, pace))
                remove(path)
    for name in STORES:
        if not installed(name):
            table.add_row(name, "not installed")
            continue
        cells = [_quantiles(found[name, width]) for width in WIDTHS]
        middle = median(np.median(taken) for taken in found[name, WIDTH])
        table.add_row(name, *cells, _bar(middle, BARS.get(name), "us"))
    return table


def _quantiles(rounds: list[NDArray[np.float64]]) -> str:
    middle = median(float(np.median(taken)) for taken in rounds)
    slow = median(float(np.quantile(taken, 0.99)) for taken in rounds)
    return f"{middle:,.1f} / {slow:,.0f} / {max(float(taken.max()) for taken in rounds):,.0f}"


def _bar(found: float, bar: float | None, unit: str) -> str:
    if bar is None:
        return ""
    return f"<= {bar:g} {unit}: {'met' if found <= bar else 'MISSED'}"


def kill(name: str, folder: Path, target: int, columns: int, pace: float) -> tuple[int, int]:
    """SIGKILL a program that stores rows; rows that it had stored, rows that can be read."""
    path, counter = folder / f"kill{target}", folder / "counter"
    counter.write_bytes(bytes(COUNT.size))
    words = [name, str(path), str(counter), str(columns), str(pace)]
    with subprocess.Popen([sys.executable, "-m", "tests.benchmarks.stores", *words]) as child:
        while COUNT.unpack(counter.read_bytes())[0] < target and child.poll() is None:
            pass
        child.send_signal(signal.SIGKILL)
    taken = int(COUNT.unpack(counter.read_bytes())[0])
    found = rows_of(STORES[name], path) if path.exists() else 0
    remove(path)
    return taken, found


def kill_table(folder: Path, kills: int, pace: float) -> Table:
    """Rows that a SIGKILL costs."""
    title = f"SIGKILL at {kills} random moments, {WIDTH} values, {1e3 * pace:g} ms per step"
    table = Table("", "rows taken", "rows lost at most", "seconds lost at most", "share lost", title=title)
    dice = random.Random(0)
    targets = [dice.randint(50, 1500) for _ in range(kills)]
    for name in STORES:
        if not installed(name):
            table.add_row(name, "not installed")
            continue
        done = [kill(name, folder, target, WIDTH, pace) for target in track(targets, name)]
        taken, lost = sum(taken for taken, _ in done), [max(0, taken - found) for taken, found in done]
        table.add_row(
            name, f"{taken:,}", f"{max(lost):,}", f"{max(lost) * pace:.3f}", f"{sum(lost) / taken:.1%}"
        )
    return table


def reading_table(folder: Path, steps: int, repeats: int) -> Table:
    """Milliseconds to open a file of each store and answer one question; file in the page cache."""
    table = Table(
        "",
        "one series, ms",
        f"last {LAST:,} rows, ms",
        "bytes / step",
        title=f"{steps:,} steps, {WIDTH} values",
    )
    rows = norms(steps, WIDTH)
    for name, store in STORES.items():
        if not installed(name):
            table.add_row(name, "not installed")
            continue
        table.add_row(name, *_reading(store, folder / "reading", rows, repeats))
    return table


def _reading(store: type[Store], path: Path, rows: Floats, repeats: int) -> tuple[str, ...]:
    writer = store(path, WIDTH)
    for i, row in enumerate(rows):
        writer.append(i, i / 1e3, row)
    writer.close()
    np.testing.assert_array_equal(store.last(path, LAST), rows[-LAST:])
    np.testing.assert_array_equal(store.series(path, 7), rows[:, 7])
    one = median(length.milliseconds(lambda: store.series(path, 7)) for _ in range(repeats))
    last = median(length.milliseconds(lambda: store.last(path, LAST)) for _ in range(repeats))
    size = size_of(path) / len(rows)
    remove(path)
    return f"{one:,.1f}", f"{last:,.1f}", f"{size:,.0f}"


PARTS = ("cost", "kills", "reading", "length")


@click.command()
@click.option("--only", multiple=True, type=click.Choice(PARTS), default=PARTS, help="May be repeated.")
@click.option("--rounds", default=5, show_default=True, help="Of the costs.")
@click.option("--steps", default=2000, show_default=True, help="Rows in a round.")
@click.option("--pace", default=0.001, show_default=True, help="Seconds per step.")
@click.option("--kills", default=10, show_default=True)
@click.option("--rows", default=1_800_000, show_default=True, help="Steps of the long run.")
@click.option("--repeats", default=9, show_default=True, help="Of each look at a file.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where the files go for a while.")
def main(
    *,
    only: tuple[str, ...],
    rounds: int,
    steps: int,
    pace: float,
    kills: int,
    rows: int,
    repeats: int,
    folder: Path | None,
) -> None:
    """Print the tables."""
    console = Console(width=120)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        place = Path(name)
        if "cost" in only:
            console.print(cost_table(place, rounds, steps, pace))
        if "kills" in only:
            console.print(kill_table(place, kills, pace))
        if "reading" in only:
            console.print(reading_table(place, 5000, min(repeats, 3)))
        if "length" in only:
            for table in length.tables(place, rows, WIDTH, repeats):
                console.print(table)


if __name__ == "__main__":
    main()
