"""Damage run files and open them: `python -m tests.benchmarks.mutants --mutants 10000`.

Half of the mutants are of a live file, half of a compacted one. Programs of their own open them and read all
that they get; what must not happen is that such a program ends before the last mutant. Leaves with 1 if so.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from nanscope.store.compaction.compact import compact
from tests.store.crafts import sound
from tests.store.mutating import Outcome

ROWS = 250  # finished blocks and newest rows, in one part
EACH = 250  # mutants for one program
ROOT = Path(__file__).parents[2]


def tried(path: Path, seed: int) -> tuple[list[Outcome], str]:
    """What became of the mutants of one seed, and what ended the program early, if anything did."""
    command = [sys.executable, "-m", "tests.store.mutating", str(path), str(EACH), str(seed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    outcomes = [Outcome(**json.loads(line)) for line in done.stdout.splitlines()]
    end = f"{path.stem}, seed {seed}, exit code {done.returncode}: {done.stderr.strip()[-500:]}"
    return outcomes, "" if done.returncode == 0 and not done.stderr else end


def copies(folder: Path, kind: str, number: int) -> Iterator[Path]:
    """As many sound files of a kind, each for one program."""
    for i in range(number):
        path = folder / f"{kind}-{i}.h5"
        sound(path, ROWS)
        if kind == "compact":
            compact(path)
        yield path


def report(ends: dict[str, Counter[str]], slowest: float, broken: list[str]) -> None:
    """Print the table and what went wrong."""
    table = Table(title="what became of the mutants")
    table.add_column("end")
    for kind in ends:
        table.add_column(kind, justify="right")
    for words, _ in sum(ends.values(), Counter[str]()).most_common():
        table.add_row(words, *(f"{counts[words]:,}" for counts in ends.values()))
    Console().print(table)
    crashes = sum(n for counts in ends.values() for words, n in counts.items() if "crashes" in words)
    hangs = sum(n for counts in ends.values() for words, n in counts.items() if "longer than" in words)
    total = sum(counts.total() for counts in ends.values())
    print(f"{total:,} mutants; slowest {slowest:.1f} s; in the child: {crashes} signals, {hangs} out of time")
    print(*[f"BROKEN {words}" for words in broken], sep="\n", end="\n" if broken else "")
    print(f"signals, hangs and errors in the program that opened them: {len(broken)}")


@click.command()
@click.option("--mutants", default=10_000, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(mutants: int, seed: int) -> None:
    """Print what became of the mutants."""
    programs = -(-mutants // (2 * EACH))
    ends: dict[str, Counter[str]] = {"live": Counter(), "compact": Counter()}
    broken, slowest = [], 0.0
    with tempfile.TemporaryDirectory() as folder, Progress(console=Console(stderr=True)) as progress:
        paths = [path for kind in ends for path in copies(Path(folder), kind, programs)]
        task = progress.add_task("mutants", total=EACH * len(paths))
        with ThreadPoolExecutor(2) as pool:
            seeds = range(seed, seed + len(paths))
            for path, (outcomes, end) in zip(paths, pool.map(tried, paths, seeds), strict=True):
                ends[path.stem.partition("-")[0]].update(outcome.words for outcome in outcomes)
                slowest = max([slowest, *(outcome.seconds for outcome in outcomes)])
                broken += [end] if end else []
                progress.advance(task, EACH)
    report(ends, slowest, broken)
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
