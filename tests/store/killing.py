"""Kill a writer at a given row and compare what is in its file with what had to be."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from nanscope.store.reader import open_run
from tests.store.child import COUNT
from tests.store.files import bits, pattern


@dataclass(frozen=True)
class Kill:
    """What one kill left: rows that were appended, found, and not as they were appended."""

    appended: int
    found: int
    wrong: int
    state: str
    lost: tuple[str, ...]
    open_seconds: float


def kill_at(folder: Path, target: int, columns: int, pace: float = 0.0, *, real: bool = False) -> Kill:
    """SIGKILL a writer once `target` rows were appended, open what it left; `real`: with full-size blocks."""
    path, counter = folder / f"run{target}.h5", folder / f"count{target}"
    counter.write_bytes(bytes(COUNT.size))
    arguments = [str(path), str(counter), str(columns), str(pace), *(["real"] if real else [])]
    with subprocess.Popen([sys.executable, "-m", "tests.store.child", *arguments]) as child:
        while COUNT.unpack(counter.read_bytes())[0] < target and child.poll() is None:
            pass
        os.kill(child.pid, signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    result = examine(path, COUNT.unpack(counter.read_bytes())[0])
    path.unlink()
    return result


def examine(path: Path, appended: int) -> Kill:
    """Open the file with plain h5py and with the reader; compare every bit."""
    with h5py.File(path) as file:
        assert file.attrs["format"] == "nanscope-run"
    start = time.perf_counter()
    run = open_run(path)
    seconds = time.perf_counter() - start
    table = run.source.block(0, len(run))
    same = (bits(table) == bits(pattern(0, len(run), table.shape[1]))).all(axis=1)
    same &= run.steps == 3 * np.arange(len(run))
    same &= run.source.times(0, len(run)) == np.arange(len(run)) / 8
    return Kill(appended, len(run), int(np.count_nonzero(~same)), run.state, run.lost, seconds)
