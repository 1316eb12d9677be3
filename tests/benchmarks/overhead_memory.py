"""Peak memory of a training, bare and recorded, each in processes of its own.

    python -m tests.benchmarks.overhead_memory SUBJECT COLUMN STEPS SMALL

prints the peak resident size of such a process before the model was made and at the end, in bytes.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from statistics import median

import torch

from tests.benchmarks.overhead_models import SUBJECTS, Subject
from tests.benchmarks.overhead_rivals import RECORDED, Bare, Recorded

BARE = "bare"


@dataclass(frozen=True)
class Peak:
    """Bytes: `process` is everything, `training` what came on top of the interpreter and its libraries."""

    process: float
    training: float


def peak(subject: Subject, column: str, *, steps: int, times: int, small: bool) -> Peak:
    """Medians over several processes."""
    found = [_peak(subject.name, column, steps, small) for _ in range(times)]
    ends, begins = (median(sizes) for sizes in zip(*((end, begin) for begin, end in found), strict=True))
    return Peak(ends, ends - begins)


def _peak(subject: str, column: str, steps: int, small: bool) -> tuple[int, int]:
    words = [sys.executable, "-m", "tests.benchmarks.overhead_memory", subject, column, str(steps)]
    words += ["small"] if small else []
    printed = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
    return int(printed[0]), int(printed[1])


def _high_water() -> int:
    """Not `ru_maxrss`: a process inherits that from the one that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Train in this process."""
    name, column, steps, *small = sys.argv[1:]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    (subject,) = (subject for subject in SUBJECTS if subject.name == name)
    if column == RECORDED:
        import_module("nanscope.recording.record")  # h5py and others belong to the process, not the training
    begin = _high_water()
    training = subject.build(bool(small), "cpu")
    with tempfile.TemporaryDirectory() as folder:
        watch = Recorded if column == RECORDED else Bare
        watching = watch(training, Path(folder))
        watching.on()
        for _ in range(int(steps)):
            watching.step()
        watching.close()
    print(begin, _high_water())


if __name__ == "__main__":
    main()
