"""The budgets of the screen on a long run: `python -m tests.benchmarks.replay [--rows N]`.

A run of 1.8 million steps and 20 sites that turns NaN near its end is made once and kept in the temporary
folder. The program is started on a pseudo-terminal of 120 x 36 and asked with keys; times are wall times of
this machine, whatever else it does.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import pty
import select
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from nanscope.replay.cases import open_case
from nanscope.store.compaction.compact import compact
from nanscope.store.writer import RunWriter
from nanscope.tui.session import Options, Session
from tests.benchmarks.detect import long_run

PIECE = 1 << 16
ROWS = 1_800_000
EMPTY_APP = "from textual.app import App; App().run()"
QUIET = 0.4  # seconds without output after which a screen is complete
PAUSE = 0.05  # seconds without output after which the next key is typed
TYPED = (b"\x1b[D", b"\x1b[D", b"H", b"+", b"-", b"N", b"k", b"v")
KEYS = ("next_step", "next_column", "zoom_in", "zoom_out", "next_event", "down", "next_stat")


def made(rows: int) -> Path:
    """The run file, written and compacted when it is not there yet."""
    path = Path(tempfile.gettempdir()) / f"nanscope-replay-{rows}" / "long.h5"
    if path.exists():
        return path
    path.parent.mkdir(exist_ok=True)
    run = long_run(rows, rows - 100)
    header = dataclasses.replace(run.header, config={"dataset": "long", "batch_size": 1, "lr": 0.1})
    writer = RunWriter.create(path.with_suffix(".tmp"), header, capacity=rows)
    for start in range(0, rows, PIECE):
        for number, row in enumerate(run.source.block(start, min(rows, start + PIECE)), start):
            writer.append(number, number / 1e3, row)
    writer.close("finished")
    compact(path.with_suffix(".tmp"))
    path.with_suffix(".tmp").rename(path)
    return path


class Screen:
    """A program on a pseudo-terminal."""

    def __init__(self, process: int, descriptor: int) -> None:
        self.process, self._descriptor = process, descriptor

    def until(self, word: bytes, patience: float = 60.0) -> float:
        """Seconds until a word is written."""
        begin, seen = time.perf_counter(), b""
        while word not in seen:
            if time.perf_counter() - begin > patience:
                raise TimeoutError(word)
            seen = seen[-200:] + self.read(patience)
        return time.perf_counter() - begin

    def read(self, seconds: float) -> bytes:
        """What is written next, empty if nothing is for so long."""
        ready, _, _ = select.select([self._descriptor], [], [], seconds)
        return os.read(self._descriptor, 1 << 16) if ready else b""

    def settle(self) -> int:
        """Read until nothing more comes; gives how many bytes."""
        count = 0
        while part := self.read(QUIET):
            count += len(part)
        return count

    def press(self, keys: bytes) -> None:
        """Type."""
        os.write(self._descriptor, keys)

    def megabytes(self) -> float:
        """Memory in use."""
        status = Path(f"/proc/{self.process}/status").read_text(encoding="ascii")
        return int(status.partition("VmRSS:")[2].split()[0]) / 1e3

    def cpu(self) -> float:
        """Seconds of processor time so far."""
        words = Path(f"/proc/{self.process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def screen(*words: str, height: int = 36, width: int = 120) -> Iterator[Screen]:
    """A program on a terminal; killed at the end."""
    process, descriptor = pty.fork()
    if not process:
        os.environ |= {"TERM": "xterm-256color", "COLORTERM": "truecolor", "LANG": "C.UTF-8"}
        os.execv(words[0], words)
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    try:
        yield Screen(process, descriptor)
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(descriptor)


def replayed(path: Path, *words: str) -> tuple[str, ...]:
    """The command line."""
    return (sys.executable, "-m", "nanscope", "replay", str(path), "--alone", *words)


def starting(path: Path, repeats: int) -> float:
    """Seconds until the verdict is painted, median."""
    times = []
    for _ in range(repeats):
        with screen(*replayed(path)) as seen:
            times.append(seen.until(b"DIVERGED"))
    return statistics.median(times)


def once(path: Path, repeats: int) -> float:
    """Seconds of `--once`, median."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        subprocess.run(replayed(path, "--once"), capture_output=True, check=False)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def drawing(path: Path, height: int, width: int) -> tuple[float, float, float]:
    """Milliseconds from a key to its picture, median and 95th percentile; and of a search by a condition."""
    session, times = Session([open_case(path)], Options(alone=True)), []
    session.frame(height, width)
    for i in range(200):
        begin = time.perf_counter()
        session.act(KEYS[i % len(KEYS)] if i % 3 else "next_step")
        session.frame(height, width)
        times.append(1e3 * (time.perf_counter() - begin))
    session.act("last_step")
    session.answer("condition", "loss > 1000")
    begin = time.perf_counter()
    session.act("run_backward")
    found = 1e3 * (time.perf_counter() - begin)
    return statistics.median(times), sorted(times)[int(0.95 * len(times))], found


def answering(path: Path, height: int, width: int) -> tuple[float, float]:
    """Milliseconds from a key to the first byte on the terminal, median and 95th percentile."""
    times = []
    with screen(*replayed(path), height=height, width=width) as seen:
        seen.until(b"DIVERGED")
        seen.settle()
        for i in range(200):
            begin = time.perf_counter()
            seen.press(TYPED[i % len(TYPED)])
            seen.read(QUIET)
            times.append(1e3 * (time.perf_counter() - begin))
            while seen.read(PAUSE):
                pass
    return statistics.median(times), sorted(times)[int(0.95 * len(times))]


def playing(path: Path, seconds: float) -> tuple[float, float, float]:
    """Memory over an empty program's, share of a core and kilobytes per second while playing."""
    with screen(sys.executable, "-c", EMPTY_APP) as empty:
        empty.settle()
        base = empty.megabytes()
    with screen(*replayed(path)) as seen:
        seen.until(b"DIVERGED")
        seen.settle()
        seen.press(b"\x1b[H")
        seen.settle()
        before, count, begin = seen.cpu(), 0, time.perf_counter()
        seen.press(b" ")
        while time.perf_counter() - begin < seconds:
            count += len(seen.read(0.1))
        passed = time.perf_counter() - begin
        return seen.megabytes() - base, (seen.cpu() - before) / passed, count / 1e3 / passed


@click.command(help=__doc__)
@click.option("--rows", default=ROWS, show_default=True)
@click.option("--repeats", default=5, show_default=True)
def main(rows: int, repeats: int) -> None:
    """Print the table."""
    path = made(rows)
    table = Table("what", "budget", "measured", title=f"{rows:,} steps x 20 sites")
    table.add_row("start to the verdict painted, s", "0.8", f"{starting(path, repeats):.2f}")
    table.add_row("--once, s", "0.5", f"{once(path, repeats):.2f}")
    for (height, width), budget in {(36, 120): "33 / 80", (24, 80): "16 / -", (50, 200): "50 / -"}.items():
        middle, high, found = drawing(path, height, width)
        size = f"{width}x{height}, ms, median / p95"
        table.add_row(f"key to picture {size}", "", f"{middle:.1f} / {high:.1f}")
        middle, high = answering(path, height, width)
        table.add_row(f"key to terminal {size}", budget, f"{middle:.1f} / {high:.1f}")
    table.add_row("run to a condition, ms", "50", f"{found:.1f}")
    memory, share, bytes_ = playing(path, 5.0)
    table.add_row("memory over an empty Textual program, MB", "150", f"{memory:.0f}")
    table.add_row("playing, share of a core", "0.20", f"{share:.2f}")
    table.add_row("playing, kB/s", "120", f"{bytes_:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
