"""The app on Textual's own test terminal: keys, prompts, mouse, palette, threads."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from textual.pilot import Pilot

from nanscope.replay.cases import open_case
from nanscope.tui.app import ReplayApp
from nanscope.tui.keys import ACTIONS, remapped
from nanscope.tui.panes.chrome import LABEL
from nanscope.tui.panes.loss import margin
from nanscope.tui.session import Options, Session
from tests.replay import story
from tests.replay.story import BIRTH, ROWS
from tests.tui.scenes import told

Played = Callable[["Player"], Awaitable[None]]


class Player:
    """A person at the app: presses, and waits until the picture is there."""

    def __init__(self, pilot: Pilot[None], app: ReplayApp) -> None:
        self.pilot, self.app, self.session = pilot, app, app.session

    async def settle(self) -> None:
        """Until the worker is done and its picture shown."""
        await asyncio.get_running_loop().run_in_executor(None, self.app.settle)
        await self.pilot.pause()

    async def press(self, *keys: str) -> None:
        """Keys, one after the other."""
        for key in keys:
            await self.pilot.press(key)
            await self.settle()

    async def type(self, text: str) -> None:
        """Letters into a prompt, and enter."""
        self.app.query_one("#prompt").value = text  # type: ignore[attr-defined]
        await self.press("enter")

    def lines(self) -> list[str]:
        """What the canvas shows."""
        canvas = self.app._canvas
        return [canvas.render_line(y).text.rstrip() for y in range(canvas.size.height)]

    def text(self) -> str:
        """The same as one text."""
        return "\n".join(self.lines())


@asynccontextmanager
async def playing(
    session: Session, size: tuple[int, int] = (120, 36), **more: object
) -> AsyncIterator[Player]:
    """The app with a session, once its first picture is there."""
    app = ReplayApp(session, **more)  # type: ignore[arg-type]
    async with app.run_test(size=size) as pilot:
        player = Player(pilot, app)
        await player.settle()
        yield player


def run(
    play: Played, session: Session | None = None, size: tuple[int, int] = (120, 36), **more: object
) -> None:
    """Play on the story's case of batch size 1."""

    async def main() -> None:
        mine = session or Session([told(1)], Options(alone=True))
        async with playing(mine, size, **more) as player:
            await play(player)

    asyncio.run(main())


def test_keys_move_and_the_picture_follows() -> None:
    """`!`, steps and screens arrive in the session, and the canvas shows them."""

    async def play(player: Player) -> None:
        await player.press("home", "right", "right", "right", "left")
        assert player.session.place.row == 2
        assert "step 2" in player.text()
        await player.press("exclamation_mark")
        assert f"step {BIRTH}" in player.text()
        await player.press("6")
        assert "RAW" in player.lines()[0]

    run(play)


def test_prompts() -> None:
    """`g` and `b` ask, enter answers, escape closes and leaves everything as it was; the keys work again."""

    async def play(player: Player) -> None:
        await player.press("g")
        assert "50%" in player.app.query_one("#prompt").placeholder  # type: ignore[attr-defined]
        await player.type("12000")
        assert player.session.place.row == 12_000
        await player.press("g", "escape", "right")
        assert player.session.place.row == 12_001
        await player.press("b")
        await player.type("out fc1 > 5e3")
        assert "c to out fc1 > 5e3" in player.text()
        await player.press("c")
        assert player.session.place.row == story.SPIKE
        await player.press("g")
        await player.type("abc")
        assert "is no place" in player.text()
        assert player.session.place.row == story.SPIKE
        await player.press("slash")
        await player.type("~^fc[12]$")
        assert "relu1" not in player.text()
        await player.press("escape")
        assert "relu1" in player.text()

    run(play)


def test_every_action_can_be_done() -> None:
    """No action of the table fails, or leaves a pane with an error."""

    async def play(player: Player) -> None:
        for name, action in ACTIONS.items():
            if name in ("quit", "palette", "report", "save", "copy"):
                continue
            await player.press(action.keys[0])
            assert "Error" not in player.text(), name
            if player.app._asked:
                await player.press("escape")
            assert player.session._errors == ()

    run(play, size=(80, 24))


def test_footer_help_and_palette_are_one_table() -> None:
    """Every action is in help and palette, with the same words; the footer takes its words from it."""

    async def play(player: Player) -> None:
        footer = player.lines()[-1]
        for name in ("play", "next_event", "first_bad", "help", "quit"):
            assert f"{ACTIONS[name].shown} {ACTIONS[name].label}" in footer
        await player.press("question_mark")
        helped = " ".join(player.text().split())
        for action in ACTIONS.values():
            assert action.shown in helped
        offered = {command.title for command in player.app.get_system_commands(player.app.screen)}
        assert offered == {f"{action.shown}  {action.words}" for action in ACTIONS.values()}

    run(play, size=(200, 50))


def test_no_key_needs_ctrl_and_none_is_taken_twice() -> None:
    """Every action has a key without ctrl, alt or shift with an arrow, and no key belongs to two of them."""
    keys = [key for action in ACTIONS.values() for key in action.keys]
    assert len(keys) == len(set(keys))
    for action in ACTIONS.values():
        assert any("+" not in key for key in action.keys), action.id


def test_the_palette_opens_and_acts() -> None:
    """`:` opens it; its words find an action, which then is done."""

    async def play(player: Player) -> None:
        await player.press("home", "colon")
        assert len(player.app.screen_stack) == 2
        assert player.app.screen.query_one("CommandInput").display  # one sees what one types
        for letter in "first non":
            await player.pilot.press("space" if letter == " " else letter)
        await player.pilot.pause(0.5)
        await player.press("enter")
        await player.settle()
        assert player.session.place.row == BIRTH

    run(play)


def test_other_keys(tmp_path: Path) -> None:
    """A table with another key for an action: the key works, the footer shows it."""
    (tmp_path / "keys.toml").write_text('first_bad = "i"\nplay = ["o", "p"]\n')
    actions, notice = remapped(tmp_path / "keys.toml")
    assert notice == ""

    async def play(player: Player) -> None:
        assert "i First NaN" in player.lines()[-1]
        await player.press("home", "i")
        assert player.session.place.row == BIRTH
        await player.press("home", "exclamation_mark")
        assert player.session.place.row == 0

    run(play, actions=actions)


@pytest.mark.parametrize(
    "text", ["first_bad = [", 'fly = "i"', "first_bad = 7", 'first_bad = "q"', "[first_bad]", "\xff"]
)
def test_a_bad_file_of_keys_is_said(tmp_path: Path, text: str) -> None:
    """It is named, and the usual keys stay usable: every action keeps one."""
    (tmp_path / "keys.toml").write_text(text, encoding="latin-1")
    actions, notice = remapped(tmp_path / "keys.toml")
    assert "keys.toml" in notice
    assert set(actions) == set(ACTIONS)


def test_the_mouse_scrubs_zooms_and_picks() -> None:
    """A click on the timeline, the wheel over the loss, a click on a layer, a drag over the loss."""

    async def play(player: Player) -> None:
        pilot = player.pilot
        room = 120 - LABEL - 1
        await pilot.click(offset=(LABEL + 30, 1))
        await player.settle()
        step = ROWS[1] / room
        assert player.session.place.row == pytest.approx(30 * step, abs=step)
        await pilot.mouse_down(offset=(LABEL + 10, 2))
        await pilot.hover(offset=(LABEL + 60, 2))
        await pilot.mouse_up(offset=(LABEL + 60, 2))
        await player.settle()
        assert player.session.place.row == pytest.approx(60 * step, abs=2 * step)
        heat = next(rect for rect in player.app._frame.rects if rect.pane == "heat")  # type: ignore[union-attr]
        await pilot.click(offset=(heat.left + 60, heat.top + 1))
        await player.settle()
        assert player.session.place.module == "fc1"
        loss = next(rect for rect in player.app._frame.rects if rect.pane == "loss")  # type: ignore[union-attr]
        await pilot.mouse_down(offset=(loss.left + 20, loss.top + 3))
        await pilot.mouse_up(offset=(loss.left + 40, loss.top + 3))
        await player.settle()
        place = player.session.place
        left = margin(player.session.scene, loss.width)
        share = ROWS[1] / (loss.width - left - 1)
        assert (place.start, place.stop) == pytest.approx(
            ((20 - left) * share, (40 - left) * share), abs=share
        )

    run(play)


def test_the_wheel_zooms_where_it_points() -> None:
    """Closer around the pointer, and farther again."""

    async def play(player: Player) -> None:
        loss = next(rect for rect in player.app._frame.rects if rect.pane == "loss")  # type: ignore[union-attr]
        offset = (loss.left + 30, loss.top + 3)
        await player.pilot._post_mouse_events([__import__("textual").events.MouseScrollUp], offset=offset)
        await player.settle()
        place = player.session.place
        left = margin(player.session.scene, loss.width)
        row = (30 - left) * ROWS[1] / (loss.width - left - 1)
        assert place.width == ROWS[1] // 2
        assert place.start <= row < place.stop

    run(play)


def test_without_mouse_nothing_moves() -> None:
    """`--no-mouse`: a click changes nothing."""

    async def play(player: Player) -> None:
        before = player.session.place
        await player.pilot.click(offset=(LABEL + 30, 1))
        await player.settle()
        assert player.session.place == before

    run(play, mouse=False)


def test_sizes_while_playing() -> None:
    """Every size, while it plays: the picture has that size and says the step or the verdict."""

    async def play(player: Player) -> None:
        await player.press("home", "space")
        for width, height in ((200, 50), (100, 30), (80, 24), (60, 18), (40, 8), (20, 5), (120, 36)):
            await player.pilot.resize_terminal(width, height)
            await player.settle()
            lines = player.lines()
            assert len(lines) == height
            assert max(map(len, lines)) <= width
            assert "step" in player.text()

    run(play)


def test_no_file_is_read_on_the_terminals_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys, screens and zooms of three files: all reading is done by other threads."""
    paths = story.tell(tmp_path)
    session = Session([open_case(paths[1])], Options())
    inner, main, seen = os.preadv, threading.get_ident(), set[int]()

    def read(*args: object) -> int:
        seen.add(threading.get_ident())
        return inner(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "preadv", read)

    async def play(player: Player) -> None:
        await player.press("plus", "plus", "2", "3", "4", "5", "6", "1", "n", "R", "right", "D", "end")

    run(play, session)
    assert seen
    assert main not in seen


def test_the_run_is_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Marks, copies and screenshots leave the run file as it was, bit by bit."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = story.tell(tmp_path, (32,))[32]
    before = hashlib.sha256(path.read_bytes()).digest()

    async def play(player: Player) -> None:
        await player.press("m")
        await player.type("here")
        await player.press("apostrophe")
        assert "here" in player.app.query_one("#prompt").placeholder  # type: ignore[attr-defined]
        await player.press("escape", "Y", "S", "S", "E")
        assert "wrote digits-bs32.html" in player.text()

    run(play, Session([open_case(path)], Options()))
    assert hashlib.sha256(path.read_bytes()).digest() == before
    assert (tmp_path / "digits-bs32.svg").read_text().count("<svg") == 1
    assert (tmp_path / "digits-bs32-1.svg").exists()
    assert "digits" in (tmp_path / "digits-bs32.html").read_text()
    copied = (tmp_path / "cache/nanscope/copied.txt").read_text()
    assert copied.startswith("nanscope replay ")
    assert (tmp_path / "digits-bs32.h5.marks.json").exists()


def test_a_replaced_file_is_noticed(tmp_path: Path) -> None:
    """Another file under the same name is said without being asked; the screen stays; R opens it."""
    path = story.tell(tmp_path, (1024,))[1024]
    session = Session([open_case(path)], Options(alone=True))
    other = story.write(tmp_path / "other.h5", story.case(1024, rows=80))
    other.replace(path)
    session.watch()()
    assert "file changed on disk" in session.message
    assert "R reopens" in session.message
    assert session.scene.case.rows == ROWS[1024]
    session.act("reopen")
    assert session.scene.case.rows == 80
    path.unlink()
    session.watch()()
    assert "file changed on disk" in session.message


def test_nothing_heavy_is_imported() -> None:
    """Once the app has drawn a run neither torch nor scikit-learn nor pandas nor matplotlib is loaded."""
    program = """
import asyncio, sys
from tests.tui.test_app import run
async def play(player):
    await player.press("right")
run(play)
heavy = {"torch", "sklearn", "pandas", "matplotlib", "plotly"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr


def test_a_job_that_fails_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails under a key: the screen says so, and goes on."""

    async def play(player: Player) -> None:
        monkeypatch.setattr(player.session, "act", partial(_fail, "no such device"))
        await player.press("right")
        assert "OSError: no such device" in player.text()
        monkeypatch.undo()
        await player.press("home")
        assert player.session.place.row == 0

    run(play)


def _fail(words: str, _name: str) -> None:
    raise OSError(words)


def test_a_picture_is_stable() -> None:
    """The same place gives the same picture, whichever way one came."""
    pictures = []

    async def play(player: Player) -> None:
        await player.press("home", "n", "plus", "2", "1", "exclamation_mark", "0")
        pictures.append(player.lines())

    for _ in range(3):
        run(play)
    assert pictures[0] == pictures[1] == pictures[2]
    assert np.count_nonzero([str(BIRTH) in line for line in pictures[0]]) >= 3
