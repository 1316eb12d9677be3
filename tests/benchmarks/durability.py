"""The run file's promises, tried out: `python -m tests.benchmarks.durability --kills 100 --cuts 100`.

In most rows nothing is trained: a victim appends rows whose every bit follows from their number, something
befalls it, and its file is opened by plain h5py and by the reader and compared bit by bit. Leaves with 1 if a
promise was broken.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tests.store.matrix import ROWS, Nurseries, Row, Shape, namespace, trials
from tests.store.outcome import Outcome

COLUMNS = ("what", "sites", "mode", "times", "files", "h5py", "reader", "lost", "s lost", "wrong", "open ms")

BATCH_SECONDS = 0.25  # the promise: what a SIGKILL costs in batch mode at most
WIDTH = 140
Results = dict[tuple[Row, Shape], list[Outcome]]


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


def tried(nurseries: Nurseries, row: Row, shape: Shape, times: int, seed: int) -> Iterator[Outcome]:
    """The outcomes of one row and shape; a victim that does not do what it should is one as well."""
    try:
        yield from trials(nurseries, row, shape, times, patience=BATCH_SECONDS, seed=seed)
    except AssertionError as error:
        yield Outcome(exists=False, plain=False, complaints=(f"the trial failed: {error}",))


def carry_out(rows: Sequence[Row], numbers: Mapping[str, int], seed: int) -> Results:
    """Every row with every shape, and a progress bar."""
    results: Results = {}
    nurseries = Nurseries()
    # without a thread of its own: in a program with threads the reader opens files another, slower way
    with Progress(console=Console(stderr=True), auto_refresh=False) as progress:
        task = progress.add_task("trials", total=sum(numbers[row.of] * len(row.shapes) for row in rows))
        for row in rows:
            for shape in row.shapes:
                begun = progress.tasks[task].completed
                outcomes = results[row, shape] = []
                for outcome in tried(nurseries, row, shape, numbers[row.of], seed):
                    outcomes.append(outcome)
                    # some trials have several outcomes
                    completed = begun + min(len(outcomes), numbers[row.of])
                    progress.update(task, completed=completed, refresh=True)
    nurseries.close()
    return results


@click.command()
@click.option("--kills", default=100, show_default=True, help="Kills in each row, size and mode.")
@click.option("--cuts", default=100, show_default=True, help="Power cuts in each row, size and mode.")
@click.option("--times", default=6, show_default=True, help="Trials of what is neither, alike.")
@click.option("--seed", default=0, show_default=True)
@click.option("--only", default="", help="Rows whose name has these words.")
def main(kills: int, cuts: int, times: int, seed: int, only: str) -> None:
    """Print what was done and what it cost."""
    results = carry_out(chosen(only), {"kills": kills, "cuts": cuts, "times": times}, seed)
    table = Table(title="lost: rows of those that had to be there, in one trial at most; s lost: their age")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in ("what", "mode") else "right", no_wrap=True)
    complaints: Counter[str] = Counter()
    for (row, (sites, mode)), outcomes in results.items():
        table.add_row(row.name, str(sites), mode or "measured", *line(outcomes))
        broken = [complaint for outcome in outcomes for complaint in outcome.complaints]
        complaints.update(f"{row.name}, {sites} sites, {mode or 'measured'}: {c}" for c in broken)
    table.add_section()
    table.add_row("all", "", "", *line([outcome for outcomes in results.values() for outcome in outcomes]))
    report(table, complaints)


def report(table: Table, complaints: Counter[str]) -> None:
    """Print the table and the broken promises."""
    console = Console()
    console.width = max(console.width, WIDTH)  # a table in a file is no narrower than it needs
    console.print(table)
    for complaint, count in complaints.most_common():
        print(f"BROKEN {count} times: {complaint}")
    if complaints:
        sys.exit(1)
    print("every promise was kept")


if __name__ == "__main__":
    main()
