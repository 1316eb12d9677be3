"""Kill writers at random moments and count what is lost: `python -m tests.benchmarks.sigkill --kills 100`.

Nothing is trained. A child appends rows at the pace of a small model's training; each kill comes after a
random number of rows. Every file is opened with plain h5py and with the reader, and compared bit by
bit with what was appended.
"""

import random
import tempfile
from pathlib import Path

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.store.killing import Kill, kill_at

MODES = {"row": 230, "batch": 1100}  # columns; the layout chooses the mode by them


def summary(mode: str, pace: float, kills: list[Kill]) -> tuple[str, ...]:
    """One line of the table."""
    lost = max(kill.appended - kill.found for kill in kills)
    return (
        mode,
        str(len(kills)),
        str(sum(kill.state == "killed" and not kill.lost for kill in kills)),
        f"{min(k.found for k in kills):,} to {max(k.found for k in kills):,}",
        str(max(0, lost)),
        f"{max(0, lost) * pace:.3f}",
        str(sum(kill.wrong for kill in kills)),
        f"{1e3 * max(kill.open_seconds for kill in kills):.0f}",
    )


@click.command()
@click.option("--kills", default=100, show_default=True, help="Kills in each mode.")
@click.option("--pace", default=0.0002, show_default=True, help="Seconds per row.")
@click.option("--rows", default=8000, show_default=True, help="Rows before a kill at most.")
@click.option("--seed", default=0, show_default=True)
def main(kills: int, pace: float, rows: int, seed: int) -> None:
    """Print what the kills left."""
    table = Table(
        title=f"SIGKILL at random moments, {1e3 * pace:g} ms per row; rows at most lost, rows wrong"
    )
    for column in ("mode", "kills", "opened", "found", "lost", "s lost", "wrong", "open ms"):
        table.add_column(column, justify="left" if column == "mode" else "right")
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        for mode, columns in MODES.items():
            moments = [dice.randint(1, rows) for _ in range(kills)]
            done = [
                kill_at(Path(folder), target, columns, pace, real=True) for target in track(moments, mode)
            ]
            table.add_row(*summary(mode, pace, done))
    Console().print(table)


if __name__ == "__main__":
    main()
