"""What recording costs and what it finds, beside others: `python -m tests.benchmarks.overhead`.

One process, one thread. On the same model blocks of steps take turns, bare and watched in every way that is
installed here, in random order; each round gives a ratio to its bare block, and their median is printed with
the quartiles. The run file is written as in real use. `floor` is what could not be left out, see
`overhead_floor`. Two columns need `transformers` and `trainscope` where
Python finds them. All of it takes about half an hour; `--rounds 0.25 --models 2` gives a first impression.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from tests.benchmarks import found, overhead_gpu
from tests.benchmarks.overhead_floor import FLOOR
from tests.benchmarks.overhead_memory import BARE, peak
from tests.benchmarks.overhead_models import SUBJECTS, Subject
from tests.benchmarks.overhead_profile import profile
from tests.benchmarks.overhead_rivals import RECORDED, RIVALS
from tests.benchmarks.overhead_timing import Plan, Times, measure

PER_SITE = 4.0  # microseconds per site and step, at most
MEMORY = 1.05
WIDTH = 170
PARTS = ("time", "memory", "found")


def cost_row(subject: Subject, times: Times, *, small: bool) -> list[str]:
    """One line of the table of times."""
    seconds, faults = (
        {name: float(np.nanmedian(of[name])) for name in of} for of in (times.seconds, times.faults)
    )
    others = [cell(name, times) for name in RIVALS]
    return [
        subject.name,
        str(times.sites),
        f"{1e6 * seconds['bare']:,.0f}",
        cell(RECORDED, times),
        cell(FLOOR, times),
        verdict(subject, times, small=small),
        f"{times.look():.2f}",
        *others,
        f"{faults['bare']:.0f} / {faults[RECORDED]:.0f}",
    ]


def cell(name: str, times: Times) -> str:
    """Median ratio and quartiles of a column."""
    if name in times.failed:
        return "fails"
    if name not in times.seconds:
        return "not installed"
    low, middle, high = np.quantile(times.ratios(name), (0.25, 0.5, 0.75))
    return f"{middle:.3f} [{low:.3f}, {high:.3f}]" if name in (RECORDED, FLOOR) else f"{middle:.2f}"


def verdict(subject: Subject, times: Times, *, small: bool) -> str:
    """Whether the bar is met, close looks included."""
    if small:
        return "small: not judged"
    if subject.bar is None:
        value, bar = f"{times.per_site():.2f} us/site", f"{PER_SITE:g}"
        met = times.per_site() <= PER_SITE
    else:
        value, bar = f"{times.recorded():.3f}", f"{subject.bar:.2f}"
        met = times.recorded() <= subject.bar
    return f"{value} <= {bar}: {'met' if met else 'MISSED'}"


def cost_table(subjects: Sequence[Subject], plan: Plan) -> Iterator[Table | str]:
    """The bars; then, why a rival cannot watch a model."""
    names = ["model", "sites", "bare us", RECORDED, FLOOR, "with close looks", "a look", *RIVALS, "faults"]
    table = Table(*names, title="multiples of the bare step; one step in 100 gets a close look")
    failed = []
    for subject in subjects:
        times = measure(subject, plan)
        row = cost_row(subject, times, small=plan.small)
        click.echo("  ".join(row), err=True)  # an interrupted run was not in vain
        table.add_row(*row)
        failed += [f"{name} fails on {subject.name}: {why}" for name, why in times.failed.items()]
    yield table
    yield from failed


def memory_table(subjects: Sequence[Subject], *, small: bool) -> Table:
    """Peak memory of processes that do nothing else."""
    table = Table("model", "bare MB", "recorded MB", "ratio", "training only", "bar", title="peak memory")
    for subject in subjects:
        steps, times = (3, 1) if small else (15, 3)
        bare, recorded = (
            peak(subject, column, steps=steps, times=times, small=small) for column in (BARE, RECORDED)
        )
        ratios = recorded.process / bare.process, recorded.training / bare.training
        table.add_row(
            subject.name,
            f"{bare.process / 1e6:,.0f}",
            f"{recorded.process / 1e6:,.0f}",
            *(f"{ratio:.3f}" for ratio in ratios),
            "small: not judged" if small else f"<= {MEMORY}: {'met' if max(ratios) <= MEMORY else 'MISSED'}",
        )
    return table


def found_table(*, words: bool) -> Iterator[Table | str]:
    """What each column finds; then, what it said."""
    watchers = found.watchers()
    table = Table("in step", "failure", RECORDED, *RIVALS, title="what is found, and the step that is named")
    said = []
    for failure in found.FAILURES:
        answers = {name: found.answer(failure, rival) for name, rival in watchers.items()}
        cells = [str(answers[name]) if name in answers else "not installed" for name in (RECORDED, *RIVALS)]
        table.add_row("-" if failure.step is None else str(failure.step), failure.name, *cells)
        said += [
            f"{failure.name}, {name}: {answer.words}" for name, answer in answers.items() if answer.words
        ]
    yield table
    if words:
        yield from said


@click.command()
@click.option(
    "--part", "parts", multiple=True, type=click.Choice(PARTS), default=PARTS, help="May be repeated."
)
@click.option("--only", multiple=True, type=click.Choice([s.name for s in SUBJECTS]), help="May be repeated.")
@click.option("--rounds", default=1.0, show_default=True, help="Times the usual number of rounds.")
@click.option("--models", default=4, show_default=True, help="Fresh models, one after the other.")
@click.option("--short", is_flag=True, help="Small models and few rounds: the times mean nothing.")
@click.option("--words", is_flag=True, help="Print what everybody said.")
@click.option("--profile", "profiled", is_flag=True, help="Where the time of a recorded step goes, instead.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
def main(
    *,
    parts: tuple[str, ...],
    only: tuple[str, ...],
    rounds: float,
    models: int,
    short: bool,
    words: bool,
    profiled: bool,
    device: str,
) -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    for of_rivals in ("Full backward hook is firing", "Error detected in"):
        warnings.filterwarnings("ignore", message=of_rivals)
    console = Console()
    console.width = max(console.width, WIDTH)  # a table in a file is no narrower than it needs
    subjects = [subject for subject in SUBJECTS if not only or subject.name in only]
    if device == "cuda":
        if not torch.cuda.is_available():
            console.print("skipped: there is no GPU here")
            return
        console.print(overhead_gpu.table(small=short))
        return
    if profiled:
        for subject in subjects if only else subjects[:1]:
            console.print(profile(subject, 20 if short else max(20, 5 * subject.block), small=short))
        return
    plan = (
        Plan(models=1, rounds=0, settle=1, longest=4, warm=12, small=True) if short else Plan(models, rounds)
    )
    for line in tables(subjects, parts, plan, words=words):
        console.print(line, markup=False) if isinstance(line, str) else console.print(line)


def tables(
    subjects: Sequence[Subject], parts: Sequence[str], plan: Plan, *, words: bool
) -> Iterator[Table | str]:
    """The wanted parts, each when it is measured."""
    if "time" in parts:
        yield from cost_table(subjects, plan)
    measured = [subject for subject in subjects if subject.memory]
    if "memory" in parts and measured:
        yield memory_table(measured, small=plan.small)
    if "found" in parts:
        yield from found_table(words=words)


if __name__ == "__main__":
    main()
