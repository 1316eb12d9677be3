"""Start victims, kill them, and compare what is in their files with what had to be."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from nanscope.store.live import Mode
from tests.store.child import Plan, Tally

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0  # seconds until a victim that does not move is given up


class Nursery:
    """Victims of one program, see `nursery.py`; one at a time.

    Args:
        module: the program.
        prefix: words before its command.
    """

    def __init__(self, module: str = "tests.store.nursery", prefix: Sequence[str] = ()) -> None:
        command = [*prefix, sys.executable, "-m", module]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )

    def start(self, plan: Plan) -> Victim:
        """A new victim."""
        tally = Tally.make(Path(plan.tally))
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(plan)) + "\n")
        self._process.stdin.flush()
        return Victim(plan, int(self._line()), tally, self)

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def close(self) -> None:
        """End the program."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@dataclass
class Victim:
    """A running training. `ended` is the moment at which it was seen to be over."""

    plan: Plan
    pid: int
    tally: Tally
    nursery: Nursery
    ended: float = 0.0

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return Path(self.plan.path).parent

    @property
    def output(self) -> str:
        """What it printed, but for what torch's libraries say at the end of a process that was forked."""
        return Path(f"{self.plan.tally}.out").read_text().partition("nanobind:")[0]

    def wait_for(self, number: int, least: float) -> None:
        """Until a number of its tally is large enough."""
        patience = time.monotonic() + PATIENCE
        alive = True
        while self.tally[number] < least:
            assert alive, self.output
            assert time.monotonic() < patience, self.output
            time.sleep(0.0002)
            alive = Path(f"/proc/{self.pid}").exists()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal, unless it is over already."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait_until_stopped(self) -> None:
        """Until a SIGSTOP has reached every thread of it."""
        tasks = Path(f"/proc/{self.pid}/task")
        while any(task.read_text().rpartition(")")[2].split()[0] != "T" for task in tasks.glob("*/stat")):
            time.sleep(0.0002)

    def wait(self) -> int:
        """Its exit code, negative for a signal."""
        code = int(self.nursery._line())
        self.ended = time.monotonic()
        return code


@dataclass
class Ground:
    """Where trials take place.

    Attributes:
        folder: does not exist yet.
        sites, mode, real: of the victims' plans.
        dice: decides what happens when.
        patience: seconds of rows that a kill may cost in batch mode.
    """

    folder: Path
    nursery: Nursery
    sites: int
    mode: Mode | None
    real: bool
    dice: Random
    patience: float

    def plan(self, **more: Any) -> Plan:
        """A plan for a victim."""
        names = self.folder / "run.h5", self.folder / "tally"
        path, tally = map(str, names)
        return Plan(path, tally, self.sites, self.mode, real=self.real, **more)

    @contextmanager
    def victim(self, plan: Plan) -> Iterator[Victim]:
        """A victim that is gone at the end, with all its files."""
        self.folder.mkdir()
        victim = self.nursery.start(plan)
        try:
            yield victim
        finally:
            if not victim.ended:
                victim.kill()
                victim.wait()
            shutil.rmtree(self.folder)
