"""The scoreboard: every program under nanscope, and what it said against the truth.

python -m tests.faults [--only NAME] [--family FAMILY] [--rivals] [--format table|markdown]
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from tests.faults.catalogue import faults
from tests.faults.fault import Fault
from tests.faults.rivals import RIVALS, UNTRIED, Said, complaint, graded
from tests.faults.score import ASKED, Score, judged

WIDTH = 150
MARKS = {True: "yes", False: "NO", None: "-"}
Result = tuple[Fault, Score]
Row = Sequence[str]


def run_all(programs: Sequence[Fault], console: Console) -> list[Result]:
    """Every program, one after the other in this process; a bar on the terminal meanwhile."""
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    try:
        steps = track(programs, "training and diagnosing", console=console, transient=True)
        return [(each, judged(each, folder / f"{each.name}.h5", verify=True)) for each in steps]
    finally:
        shutil.rmtree(folder)


def program_rows(results: Sequence[Result]) -> list[Row]:
    """One row per program: name, what is right, seconds."""
    return [
        (
            fault.name,
            *(MARKS[getattr(score, name)] for name in ASKED),
            {True: "YES", False: "no", None: "-"}[score.false_alarm],
            MARKS[score.remedied],
            f"{score.seconds:.2f}",
        )
        for fault, score in results
    ]


def _share(values: Sequence[bool | None]) -> str:
    asked = [each for each in values if each is not None]
    return f"{sum(asked)} / {len(asked)}" if asked else "-"


def family_rows(results: Sequence[Result]) -> list[Row]:
    """One row per family of faults, one for the healthy ones, and the total."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault("healthy" if result[0].healthy else result[0].family, []).append(result)
    return [*(_sums(name, group) for name, group in groups.items()), _sums("all", results)]


def _sums(name: str, results: Sequence[Result]) -> Row:
    scores = [score for _, score in results]
    return (
        name,
        str(len(scores)),
        *(_share([getattr(each, asked) for each in scores]) for asked in ASKED),
        _share([each.false_alarm for each in scores]),
        _share([each.remedied for each in scores]),
        f"{sum(each.seconds for each in scores):.1f}",
    )


def rival_rows(programs: Sequence[Fault], console: Console) -> list[Row]:
    """One row per rival: how often the step and the operation are right, and false alarms."""
    rows = []
    for rival in RIVALS:
        if not rival.installed:
            rows.append((rival.name, "not installed", "", "", ""))
            continue
        asked = track(programs, rival.name, console=console, transient=True)
        said: list[tuple[Fault, Said | None]] = [(each, complaint(rival, each)) for each in asked]
        steps, ops, alarms = zip(*(graded(fault, words) for fault, words in said), strict=True)
        spoke = sum(words is not None for fault, words in said if not fault.healthy)
        healthy = sum(fault.healthy for fault in programs)
        rows.append((rival.name, str(spoke), _share(steps), _share(ops), f"{sum(alarms)} / {healthy}"))
    return [*rows, *((name, why, "", "", "") for name, why in UNTRIED.items())]


HEAD_PROGRAM = ("program", *ASKED, "false alarm", "remedy", "s")
HEAD_FAMILY = ("family", "programs", *ASKED, "false alarms", "remedies proved", "s")
HEAD_RIVAL = ("tool", "faults it spoke of", "step", "operation", "false alarms")


def show(head: Row, rows: Sequence[Row], console: Console, *, markdown: bool) -> None:
    """A table, for the terminal or for a README."""
    if markdown:
        lines = [head, ["---"] * len(head), *rows]
        console.print(
            Text("\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"), soft_wrap=True
        )
        return
    table = Table(*head, header_style="")
    for column in table.columns:
        column.no_wrap = True
    for row in rows:
        table.add_row(*(Text(cell, style="red" if cell in ("NO", "YES") else "") for cell in row))
    console.print(table)


def show_wrong(results: Sequence[Result], console: Console) -> None:
    """What was said where it was not the truth."""
    for fault, score in results:
        if score.wrong:
            console.print(Text(f"{fault.name}: wrong {', '.join(score.wrong)}\n  said  {score.said}"))
            console.print(Text(f"  truth {fault.truth}"))


@click.command()
@click.option("--only", multiple=True, metavar="NAME", help="only this program; may be given again")
@click.option("--family", metavar="FAMILY", help="only the programs of this family, or `healthy`")
@click.option("--rivals", is_flag=True, help="what other tools say, too")
@click.option("--format", "style", type=click.Choice(["table", "markdown"]), default="table")
def main(only: tuple[str, ...], family: str | None, style: str, *, rivals: bool) -> None:
    """Print how many of the faults are found, and how exactly."""
    programs = [each for each in faults() if _wanted(each, only, family)]
    if not programs:
        raise click.UsageError("no such program")
    aside, console = Console(stderr=True), Console()
    console.width = max(console.width, WIDTH)
    results = run_all(programs, aside)
    markdown = style == "markdown"
    if not markdown:
        show(HEAD_PROGRAM, program_rows(results), console, markdown=False)
        show_wrong(results, console)
    show(HEAD_FAMILY, family_rows(results), console, markdown=markdown)
    if rivals:
        show(HEAD_RIVAL, rival_rows(programs, aside), console, markdown=markdown)


def _wanted(program: Fault, only: tuple[str, ...], family: str | None) -> bool:
    named = not only or program.name in only
    return named and (family is None or family == program.family or (family == "healthy" and program.healthy))


if __name__ == "__main__":
    main()
