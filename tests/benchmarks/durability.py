"""The run file's promises, tried out: `python -m tests.benchmarks.durability --kills 100 --cuts 100`.

In most rows nothing is trained: a victim appends rows whose every bit follows from their number, something
befalls it, and its file is opened by plain h5py and by the reader and compared bit by bit. Leaves with 1 if a
promise was broken.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tests.store.matrix import ROWS, Nurseries, Row, namespace, trials
from tests.store.outcome import Outcome

COLUMNS = ("what", "sites", "mode", "times", "files", "h5py", "reader", "lost", "s lost", "wrong", "open ms")


def line(outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    """One line of the table, but for what it is about."""
    files = [outcome for outcome in outcomes if outcome.exists]
    return (
        str(len(outcomes)),
        str(len(files)),
        str(sum(outcome.plain for outcome in files)),
        str(sum(outcome.opened for outcome in files)),
        f"{max((outcome.missing for outcome in files), default=0):,}",
        f"{max((outcome.late for outcome in files), default=0):.3f}",
        str(sum(outcome.wrong for outcome in files)),
        f"{1e3 * max((outcome.open_seconds for outcome in files), default=0):.0f}",
    )


def chosen(only: str) -> list[Row]:
    """The rows whose name has these words and that can be tried here."""
    return [row for row in ROWS if only.lower() in row.name.lower() and (namespace() or not row.mounts)]


@click.command()
@click.option("--kills", default=100, show_default=True, help="Kills in each row, size and mode.")
@click.option("--cuts", default=100, show_default=True, help="Power cuts in each row, size and mode.")
@click.option("--times", default=6, show_default=True, help="Trials of what is neither, alike.")
@click.option("--seed", default=0, show_default=True)
@click.option("--only", default="", help="Rows whose name has these words.")
def main(kills: int, cuts: int, times: int, seed: int, only: str) -> None:
    """Print what was done and what it cost."""
    numbers = {"kills": kills, "cuts": cuts, "times": times}
    plan = [(row, *shape, numbers[row.of]) for row in chosen(only) for shape in row.shapes]
    table = Table(title="rows lost: at most in one trial, of those that had to be there; s lost: their age")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in ("what", "mode") else "right")
    complaints: Counter[str] = Counter()
    nurseries = Nurseries()
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("trials", total=sum(number for *_, number in plan))
        for row, sites, mode, number in plan:
            outcomes = []
            for outcome in trials(nurseries, row, sites, mode, number, seed=seed):
                outcomes.append(outcome)
                progress.advance(task)
            table.add_row(row.name, str(sites), mode or "measured", *line(outcomes))
            complaints.update(
                f"{row.name}, {sites} sites, {mode}: {c}" for o in outcomes for c in o.complaints
            )
    nurseries.close()
    report(table, complaints)


def report(table: Table, complaints: Counter[str]) -> None:
    """Print the table and the broken promises."""
    Console().print(table)
    for complaint, count in complaints.most_common():
        print(f"BROKEN {count} times: {complaint}")
    if complaints:
        sys.exit(1)
    print("every promise was kept")


if __name__ == "__main__":
    main()
