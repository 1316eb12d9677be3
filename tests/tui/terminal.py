"""A real terminal for tests: tmux on a socket of its own, read as text."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PATIENCE = 10.0  # seconds after which a screen that does not come is a failure, on a busy machine
LOOK = 0.05

needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")


class Terminal:
    """One program on one terminal."""

    def __init__(self, folder: Path, socket: Path) -> None:
        self._folder, self._socket = folder, socket

    def tmux(self, *words: str, check: bool = True) -> str:
        """Ask tmux."""
        done = subprocess.run(
            ["tmux", "-u", "-S", str(self._socket), "-f", "/dev/null", *words],
            capture_output=True, cwd=self._folder, check=False, timeout=PATIENCE,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stderr
        return done.stdout.decode("utf-8", "replace")

    def begin(self, words: tuple[str, ...], width: int, height: int, environment: dict[str, str]) -> None:
        """Start the program; the shell stays, so that what it printed and its exit code can be read."""
        told = {"OMP_NUM_THREADS": "1", "LANG": "C.UTF-8", "XDG_CONFIG_HOME": str(self._folder)} | environment
        sets = " ".join(f"{name}={shlex.quote(value)}" for name, value in told.items())
        drop = "-u LC_ALL -u LC_CTYPE -u NO_COLOR -u SSH_CONNECTION -u COLUMNS -u LINES"
        program = f"env {drop} {sets} {shlex.join([sys.executable, '-m', 'nanscope', *words])}"
        size = ["-x", str(width), "-y", str(height)]
        self.tmux("new-session", "-d", *size, f"{program}; echo left with $?; exec cat")

    def lines(self) -> list[str]:
        """What is on the screen."""
        return self.tmux("capture-pane", "-p").split("\n")

    def text(self) -> str:
        """The same as one text, thousands joined."""
        return "\n".join(self.lines()).replace(",", "")

    def title(self) -> str:
        """The terminal's title."""
        return self.tmux("display-message", "-p", "#{pane_title}").strip()

    def shell(self) -> int:
        """The process whose child the program is."""
        return int(self.tmux("display-message", "-p", "#{pane_pid}"))

    def press(self, *keys: str) -> None:
        """Press keys, as tmux calls them."""
        self.tmux("send-keys", *keys)

    def type(self, text: str) -> None:
        """Type letters as they are."""
        self.tmux("send-keys", "-l", text)

    def resize(self, width: int, height: int) -> None:
        """Give the terminal another size."""
        self.tmux("resize-window", "-x", str(width), "-y", str(height))

    def wait(self, wanted: str | Callable[[str], bool], what: str = "") -> str:
        """Look until the screen holds a text, or fulfils a condition; gives what it shows."""
        holds = wanted if callable(wanted) else lambda text: wanted in text
        end = time.monotonic() + PATIENCE
        while not holds(shown := self.text()):
            assert time.monotonic() < end, f"never came: {what or wanted}\n{shown}"
            time.sleep(LOOK)
        return shown


@contextlib.contextmanager
def terminal(
    folder: Path, *words: str, width: int = 120, height: int = 36, **environment: str
) -> Iterator[Terminal]:
    """`nanscope WORDS` on a terminal of this size; everything is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="ns") as short:  # a socket's name has a hundred letters at most
        made = Terminal(folder, Path(short) / "tmux")
        made.begin(words, width, height, environment)
        try:
            yield made
        finally:
            made.tmux("kill-server", check=False)
