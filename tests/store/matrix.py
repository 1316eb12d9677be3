"""The crash matrix: everything that may befall a run file, as rows of trials.

The tests run a few trials of each row, `python -m tests.benchmarks.durability` as many as one likes.
"""

from __future__ import annotations

import functools
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

from nanscope.store.live import Mode
from tests.store import cuts, kills, mishaps, trainings, watchers
from tests.store.killing import Ground, Nursery
from tests.store.outcome import Outcome
from tests.store.recorded import LARGE, SMALL

Trial = Callable[[Ground, int], Iterator[Outcome]]
"""`(ground, times) -> outcomes`: breaks something so many times; a broken promise is a complaint in them."""

Shape = tuple[int, Mode | None]
"""Sites of the model and mode of the writer; None: as it chooses."""

STORE, TRAINED = "tests.store.nursery", "tests.store.trained"
MODES: Mapping[str, tuple[Mode | None, ...]] = {STORE: ("row", "batch"), TRAINED: (None,)}


@dataclass(frozen=True)
class Row:
    """One thing that may happen. It is tried with few and many sites, in every mode.

    Attributes:
        name: in words.
        trial: makes it happen.
        of: "kills" or "cuts": of which number of trials; "times": a few are enough.
        real: with blocks and ring of full size, not with small ones that are soon gone round.
        program: that forks the victims.
        mounts: whether it needs the right to mount a file system.
    """

    name: str
    trial: Trial
    of: str = "times"
    real: bool = False
    program: str = STORE
    mounts: bool = False

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """What it is tried with."""
        return tuple((sites, mode) for sites in (SMALL, LARGE) for mode in MODES[self.program])


ROWS = (
    Row("SIGKILL at a random moment", kills.at_random_moments, "kills"),
    Row("SIGKILL at a random moment, full-size blocks", kills.at_random_moments, "kills", real=True),
    Row("SIGKILL inside a block's completion", kills.in_a_block, "kills"),
    Row("SIGKILL within 12 ms of creation", kills.in_creation, "kills"),
    Row("SIGKILL inside an amend", kills.in_amend, "kills"),
    Row("SIGKILL inside the switch to the next part", kills.in_the_next_part, "kills"),
    Row("SIGKILL while a thinned slot is overwritten", kills.in_a_thinned_slot, "kills"),
    Row("SIGKILL of a recorded training", trainings.killed, "kills", program=TRAINED),
    Row("power cut at full speed", cuts.at_any_moment, "cuts"),
    Row("power cut between syncs", cuts.at_a_pace, "cuts"),
    Row("power cut around the next part", cuts.in_the_next_part, "cuts"),
    Row("power cut while a thinned slot is overwritten", cuts.in_a_thinned_slot, "cuts"),
    Row("file size limit", mishaps.size_limit),
    Row("file size limit in a training", trainings.size_limit, program=TRAINED),
    Row("full disk in a training", trainings.full_disk, program=TRAINED, mounts=True),
    Row("no room from the beginning", trainings.no_room, program=TRAINED, mounts=True),
    Row("read-only folder", trainings.read_only, program=TRAINED, mounts=True),
    Row("read-only file read back", trainings.read_back, program=TRAINED, mounts=True),
    Row("disk that hangs", mishaps.hanging_disk),
    Row("forks", mishaps.forks),
    Row("second recorder on the name", mishaps.second_recorder),
    Row("stopped and continued", mishaps.stopped),
    Row("clock goes back", mishaps.clock_goes_back),
    Row("no thread to be had", mishaps.no_thread),
    Row("writer's thread dies", mishaps.dead_thread),
    Row("writer's thread always fails", mishaps.failing_thread),
    Row("ends of a training", trainings.ends, program=TRAINED),
    Row("held open by readers, 200 polls", watchers.held_open),
    Row("opened again and again", watchers.polled),
    Row("moved while it is written", watchers.moved),
    Row("copied with and without holes", watchers.copied),
)


class Nurseries:
    """The programs that fork victims, each started when it is first needed."""

    def __init__(self) -> None:
        self._started: dict[str, Nursery] = {}

    def of(self, program: str) -> Nursery:
        """The running program."""
        if program not in self._started:
            self._started[program] = Nursery(program, namespace() if program == TRAINED else ())
        return self._started[program]

    def close(self) -> None:
        """End all of them."""
        for nursery in self._started.values():
            nursery.close()


@functools.cache
def namespace() -> tuple[str, ...]:
    """A command for a namespace in which this user may mount; empty: there is none."""
    for command in (("unshare", "--mount"), ("unshare", "--user", "--map-root-user", "--mount")):
        probe = [*command, "mount", "-t", "tmpfs", "none", "/mnt"]
        if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            return command
    return ()


def trials(
    nurseries: Nurseries, row: Row, shape: Shape, times: int, *, patience: float, seed: int = 0
) -> Iterator[Outcome]:
    """So many trials of one row; `patience` as in `Ground`."""
    sites, mode = shape
    dice = Random(f"{row.name} {sites} {mode} {seed}")
    nursery = nurseries.of(row.program)
    with tempfile.TemporaryDirectory() as folder:
        ground = Ground(Path(folder) / "trial", nursery, sites, mode, row.real, dice, patience)
        yield from row.trial(ground, times)
