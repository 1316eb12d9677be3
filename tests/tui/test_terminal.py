"""The replay on a real terminal: tmux types the keys and reads the screen."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nanscope.replay.stops import divergence
from tests.builders import make_run
from tests.replay import story
from tests.replay.story import BIRTH, ROWS
from tests.tui.scenes import scene
from tests.tui.terminal import needs_tmux, terminal

pytestmark = needs_tmux


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The story's three runs."""
    made = tmp_path_factory.mktemp("runs")
    story.tell(made)
    return made


RUN = ("replay", "digits-bs1.h5")


def test_the_answer_is_there_before_any_key(folder: Path) -> None:
    """Verdict, layer, step and an advice, and then the cases beside it; `q` leaves with 0."""
    with terminal(folder, *RUN) as tty:
        shown = tty.wait("bs=1024")
        for word in ("DIVERGED", "fc2", str(BIRTH), "learning rate"):
            assert word in shown
        tty.press("q")
        tty.wait("left with 0")


def test_from_the_footer_to_the_answer(folder: Path) -> None:
    """The footer names the key that leads to the first NaN; step and layer are then read off the focus."""
    with terminal(folder, *RUN) as tty:
        footer = next(line for line in tty.wait("First NaN").split("\n") if "First NaN" in line)
        tty.press("Home")
        tty.wait("step 0")
        tty.type(footer.split("First NaN")[0].split()[-1])
        shown = tty.wait(lambda text: f"step {BIRTH}" in text.split("FOCUS")[-1].split("\n")[0])
        assert "fc2" in shown.split("FOCUS")[-1]


KEYS = (
    ("Home", "step 0"), ("Right", "step 1"), (".", "step 2"), ("Left", "step 1"), (",", "step 0"),
    ("End", f"step {ROWS[1] - 1}"), ("^", "step 0"), ("$", f"step {ROWS[1] - 1}"), ("!", f"step {BIRTH}"),
    ("!", "1 col = 3"), ("u", "1 col = 9"), ("2", "COMPARE"), ("3", "LAYERS"), ("4", "PREDICT"), ("5", "WHY"),
    ("6", "RAW"), ("1", "OVERVIEW"), ("?", "HELP"), ("Escape", "OVERVIEW"), ("F1", "HELP"), ("?", "EVENTS"),
    ("y", "linear"), ("y", "log"), ("v", "grad norm"), ("V", "output norm"), ("r", "log10"), ("e", "steps"),
    ("]", "bs=1024 [1/3]"), ("[", "bs=1 [3/3]"), ("space", "PLAYING"), ("space", "PAUSED"),
    (">", "x2"), ("<", "x1"), ("g", "go to"), ("Escape", "q Quit"), ("b", "run to"), ("Escape", "q Quit"),
    ("/", "show only"), ("Escape", "q Quit"), ("c", "b sets one"), ("C", "b sets one"),
)  # fmt: skip


def test_every_kind_of_key_arrives(folder: Path) -> None:
    """Letters, digits, signs, arrows, Home, End, F1 and Escape each do what the help says."""
    with terminal(folder, *RUN) as tty:
        tty.wait("[3/3]")
        for key, wanted in KEYS:
            tty.press(key) if len(key) > 1 else tty.type(key)
            tty.wait(wanted, f"{wanted!r} after {key!r}")


MOVES = (("S-Right", "L"), ("S-Left", "H"), ("PageDown", ")"), ("PageUp", "("), ("Down", "j"), ("Up", "k"))


def test_keys_with_shift_and_their_letters(folder: Path) -> None:
    """Shift with an arrow, the pages, up and down do the same as their plain letters."""

    def where(text: str) -> list[str]:
        focus = text.rsplit("FOCUS", maxsplit=1)[-1].split("\n")
        return [focus[0].split("step")[-1].split()[0], focus[1].split("layer")[-1].split()[1]]

    with terminal(folder, *RUN) as tty:
        tty.wait("[3/3]")
        tty.type("+++++")
        for pair in MOVES:
            seen = []
            for key in pair:
                tty.type("1!g")
                tty.wait("go to")
                tty.type("20000")
                tty.press("Enter")
                tty.wait(lambda text: where(text) == ["20000", "fc2"], f"the begin before {key}")
                tty.type(key) if len(key) == 1 else tty.press(key)
                seen.append(where(tty.wait(lambda text: where(text) != ["20000", "fc2"], f"{key} moves")))
            assert seen[0] == seen[1]


def test_keys_that_change_the_view_and_what_leaves_it(folder: Path, tmp_path: Path) -> None:
    """Events, zoom, panes, layers, marks, undo, copies, files, palette: each key shows its effect."""
    for name in ("digits-bs1.h5", "digits-bs1024.h5"):
        shutil.copy(folder / name, tmp_path)
    shown = scene(batches=(1024, 1))
    first, second = (stop.row for stop in shown.stops[:2])
    parted = divergence(shown.case, shown.desk.cases[0])

    def window(text: str) -> str:
        return next((line for line in text.split("\n") if line.startswith(" window")), "")

    with terminal(tmp_path, *RUN, XDG_CACHE_HOME=str(tmp_path)) as tty:

        def press(key: str, wanted: str | Callable[[str], bool]) -> None:
            tty.type(key) if len(key) == 1 else tty.press(key)
            tty.wait(wanted, f"{wanted!r} after {key!r}")

        def changes(key: str) -> None:
            before = window(tty.text())
            press(key, lambda text: window(text) not in ("", before))

        tty.wait("[2/2]")
        for key, wanted in (
            ("Home", "step 0"), ("n", f"step {first}"), ("n", f"step {second}"), ("N", f"step {first}"),
            ("D", f"step {parted}"), ("!", f"step {BIRTH}"), ("u", f"step {parted}"), ("U", f"step {BIRTH}"),
            ("f", "this run is over"), ("R", "read again"), ("m", "a note"), ("Enter", "marked step"),
            ("'", "go to the mark"), ("Escape", "q Quit"), ("Tab", "▸loss"), ("BTab", "▸output norm"),
            ("P", "▸EVENTS"), ("Tab", "▸output norm"), ("Enter", "LAYERS"), ("Escape", "OVERVIEW"),
            ("2", "baseline step"), ("B", "▸bs=1 baseline"), ("1", "OVERVIEW"), ("Y", "copied"),
            ("E", "wrote digits-bs1.html"), ("S", "digits-bs1.svg"),
        ):  # fmt: skip
            press(key, wanted)
        for key in (":", "C-p"):
            press(key, "Search for")
            press("Escape", lambda text: "go to a mark" not in text)
        for key in "+ad-wsw0":
            changes(key)
        press("x", lambda text: "▌▌▌" not in text)
        press("x", "▌▌▌")
        press("z", lambda text: "1 col" not in text)
        press("z", "1 col")
        press("Home", "step 0")
        press("b", "run to")
        tty.type("nan any")
        press("Enter", "c runs forward to nan any")
        press("c", lambda text: "stopped at step" in text and f"step {BIRTH}" in text)
        press("$", f"step {ROWS[1] - 1}")
        press("C", "stopped at step")
        press("q", "left with 0")


def test_away_and_back(folder: Path) -> None:
    """Ctrl-Z gives the terminal back; when the program goes on it is drawn again, and hears its keys."""
    with terminal(folder, *RUN, "--alone") as tty:
        tty.wait("DIVERGED")
        shell = tty.shell()
        (child,) = map(int, Path(f"/proc/{shell}/task/{shell}/children").read_text().split())
        state = Path(f"/proc/{child}/stat")
        tty.press("C-z")
        tty.wait(lambda text: "DIVERGED" not in text, "the terminal as it was")
        tty.wait(lambda _: state.read_text().rpartition(")")[2].split()[0] == "T", "a stopped program")
        os.kill(child, signal.SIGCONT)
        tty.wait("DIVERGED")
        tty.press("q")
        tty.wait("left with 0")


def test_sizes_while_playing(folder: Path) -> None:
    """The terminal shrinks and grows while it plays: it goes on, and says the step or the verdict."""
    with terminal(folder, *RUN) as tty:
        tty.wait("[3/3]")
        tty.press("Home")
        tty.press("space")
        for width, height in ((200, 50), (100, 30), (80, 24), (60, 18), (40, 8), (20, 5), (120, 36)):
            tty.resize(width, height)
            tty.wait(lambda text: "step" in text or "DIVERGED" in text, f"{width}x{height}")
        assert "Traceback" not in tty.text()
        tty.wait("OVERVIEW")


@pytest.mark.parametrize("screen", range(1, 7))
def test_a_terminal_without_utf8(folder: Path, screen: int) -> None:
    """LANG=C on a Linux console: nothing but ASCII, NaN is an X."""
    words = (*RUN, "--alone", "--screen", str(screen))
    with terminal(folder, *words, LANG="C", LC_ALL="C", TERM="linux", PYTHONUTF8="0") as tty:
        shown = tty.wait("DIVERGED")
        assert shown.isascii()
        assert "XXX" in shown


def test_without_colours(folder: Path) -> None:
    """NO_COLOR=1: words and signs tell all of it."""
    with terminal(folder, *RUN, NO_COLOR="1") as tty:
        shown = tty.wait("bs=1024")
        for word in ("DIVERGED", "ERR", "bs=32", "\N{MULTIPLICATION SIGN}" * 9):
            assert word in shown


def test_sixteen_colours(folder: Path) -> None:
    """What a simple terminal has not, it is not sent; words and signs are there as ever."""
    with terminal(folder, *RUN, TERM="xterm", COLORTERM="", TEXTUAL_COLOR_SYSTEM="standard") as tty:
        shown = tty.wait("bs=1024")
        for word in ("DIVERGED", "ERR", "\N{MULTIPLICATION SIGN}" * 9):
            assert word in shown
        sent = tty.tmux("capture-pane", "-p", "-e")
        assert "\x1b[" in sent
        assert "38;2;" not in sent
        assert "48;5;" not in sent


def test_hostile_names(tmp_path: Path) -> None:
    """Names with escape sequences, markup, wide letters: the title stays, nothing breaks."""
    names = ("a\x1b]2;owned\x07b", "[red]x[/red]", "</script>", "a" * 300, "层1", "שלום")
    run = make_run(outputs={name: [1.0, np.nan, np.nan] for name in names}, loss=[1.0, np.nan, np.nan])
    story.write(tmp_path / "odd.h5", run)
    with terminal(tmp_path, "replay", "odd.h5", "--screen", "1", width=120) as tty:
        before = tty.title()
        for screen in "1356?":
            tty.type(screen)
            tty.wait("DIVERGED")
        tty.type("?1")
        shown = tty.wait("层1")
        assert "[red]x[/red]" in shown
        assert "owned" not in tty.title()
        assert tty.title() == before or "nanscope" in tty.title()


WRITER = """
    import sys
    from pathlib import Path
    import numpy as np
    from nanscope.run import Column, Header
    from nanscope.store.writer import RunWriter
    writer = RunWriter.create(Path("live.h5"), Header((Column(None, "loss"),)), capacity=100000, mode="row")
    for step, line in enumerate(sys.stdin):
        writer.append(step, step / 10, np.array([1.0], np.float32))
        print(step, flush=True)
"""


def test_a_live_run(tmp_path: Path) -> None:
    """New steps appear by themselves, `left` holds, End follows; stalled and killed are told apart."""
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER)],
        cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
    ) as writer:  # fmt: skip
        try:
            _rows(writer, 50)
            with terminal(tmp_path, "replay", "live.h5") as tty:
                tty.wait("step 49")
                _rows(writer, 10)
                assert "LIVE" in tty.wait("step 59")
                tty.press("Left")
                tty.wait("HELD")
                _rows(writer, 5)
                assert "step 58" in tty.wait("6 newer")
                tty.press("End")
                tty.wait("step 64")
                os.kill(writer.pid, signal.SIGSTOP)
                assert "step 64" in tty.wait(lambda text: _aged(tmp_path / "live.h5") and "STALLED" in text)
                os.kill(writer.pid, signal.SIGKILL)
                shown = tty.wait("ENDED killed")
                assert "step 64" in shown
                assert "Traceback" not in shown
        finally:
            writer.kill()


def _aged(path: Path) -> bool:
    """Make it look as if nothing had come for ten minutes."""
    long_ago = time.time() - 600
    os.utime(path, (long_ago, long_ago))
    return True


def _rows(writer: subprocess.Popen[str], count: int) -> None:
    """Have so many rows written; each is there when this returns."""
    assert writer.stdin is not None
    assert writer.stdout is not None
    for _ in range(count):
        writer.stdin.write("\n")
        writer.stdout.readline()


def test_other_keys(folder: Path, tmp_path: Path) -> None:
    """keys.toml gives a key to an action, and the footer shows it; a bad file is said and ignored."""
    home = tmp_path / "nanscope"
    home.mkdir()
    (home / "keys.toml").write_text('first_bad = "i"\n')
    with terminal(folder, *RUN, "--alone", XDG_CONFIG_HOME=str(tmp_path)) as tty:
        tty.wait("i First NaN")
        tty.press("Home")
        tty.wait("step 0")
        tty.type("i")
        tty.wait(f"step {BIRTH}")
    (home / "keys.toml").write_text("first_bad = [")
    with terminal(folder, *RUN, "--alone", XDG_CONFIG_HOME=str(tmp_path)) as tty:
        shown = tty.wait("keys.toml is ignored")
        assert "! First NaN" in shown


def test_to_a_pipe(folder: Path) -> None:
    """`--once`, and any output that is no terminal: plain text, no escape, exit code 1 for an error."""
    for words in ((*RUN, "--once"), RUN):
        done = subprocess.run(
            [sys.executable, "-m", "nanscope", *words], cwd=folder, capture_output=True, check=False
        )
        assert done.returncode == 1
        assert b"\x1b" not in done.stdout
        for word in ("DIVERGED", "fc2.weight.grad", str(BIRTH), "learning-rate-divergence", "whole run"):
            assert word in done.stdout.decode()
