"""The crash matrix: everything that may befall a run file, as rows of trials.

The tests run a few trials of each row, `python -m tests.benchmarks.durability` as many as one likes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.store import cuts, kills
from tests.store.killing import Ground, Nursery
from tests.store.outcome import Outcome
from tests.store.recorded import LARGE, SMALL

Trial = Callable[[Ground, int], Iterator[Outcome]]
"""`(ground, times) -> outcomes`: breaks something so many times; a broken promise is a complaint in them."""

SHAPES = tuple((sites, mode) for sites in (SMALL, LARGE) for mode in ("row", "batch"))
"""Every row of the matrix is tried with each of these: sites of the model, mode of the writer."""


@dataclass(frozen=True)
class Row:
    """One thing that may happen.

    Attributes:
        name: in words.
        trial: makes it happen.
        of: kills or cuts: of which number of trials.
        real: with blocks and ring of full size, not with small ones that are soon gone round.
    """

    name: str
    trial: Trial
    of: str
    real: bool = False


ROWS = (
    Row("SIGKILL at a random moment", kills.at_random_moments, "kills"),
    Row("SIGKILL at a random moment, full-size blocks", kills.at_random_moments, "kills", real=True),
    Row("SIGKILL inside a block's completion", kills.in_a_block, "kills"),
    Row("SIGKILL within 12 ms of creation", kills.in_creation, "kills"),
    Row("SIGKILL inside an amend", kills.in_amend, "kills"),
    Row("SIGKILL inside the switch to the next part", kills.in_the_next_part, "kills"),
    Row("SIGKILL while a thinned slot is overwritten", kills.in_a_thinned_slot, "kills"),
    Row("power cut at full speed", cuts.at_any_moment, "cuts"),
    Row("power cut between syncs", cuts.at_a_pace, "cuts"),
    Row("power cut around the next part", cuts.in_the_next_part, "cuts"),
    Row("power cut while a thinned slot is overwritten", cuts.in_a_thinned_slot, "cuts"),
)


def trials(
    nursery: Nursery, row: Row, sites: int, mode: str, times: int, *, seed: int = 0
) -> Iterator[Outcome]:
    """So many trials of one row in a folder of their own."""
    dice = Random(f"{row.name} {sites} {mode} {seed}")
    with tempfile.TemporaryDirectory() as folder:
        yield from row.trial(Ground(Path(folder) / "trial", nursery, sites, mode, row.real, dice), times)
