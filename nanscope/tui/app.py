"""The terminal: keys go to the session in its thread, pictures come back."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from rich.console import RenderableType
from textual import events
from textual.app import App, ComposeResult, SystemCommand
from textual.binding import Binding
from textual.screen import Screen
from textual.widgets import Input

from nanscope.tui.canvas import Canvas
from nanscope.tui.frame import Frame
from nanscope.tui.keys import ACTIONS, Action
from nanscope.tui.pointer import pointed
from nanscope.tui.session import Effect, Session
from nanscope.tui.spans import narrowed

SECOND = 1.0
Job = Callable[[], Effect | None]
"""What the worker does; an effect is for the terminal."""


Errand = Callable[[], Callable[[], None]]
"""What takes long, and is done beside the worker; its end is a job for the worker."""
BREAK = 3.0  # between two looks at the files, times as long as a look took


class ReplayApp(App[None]):
    """The replay on a terminal.

    Args:
        session: what is shown; it is only touched by the worker.
        actions: the table of keys.
        notice: something to tell at the start.
    """

    TITLE = "nanscope replay"
    CSS = """
    #prompt { dock: bottom; display: none; height: 3; }
    #prompt.asked { display: block; }
    """
    ENABLE_COMMAND_PALETTE = True
    BINDINGS: ClassVar = [Binding("ctrl+z", "suspend_process", show=False)]

    def __init__(
        self,
        session: Session,
        *,
        actions: Mapping[str, Action] = ACTIONS,
        notice: str = "",
        mouse: bool = True,
    ) -> None:
        super().__init__()
        self.session = session
        session.actions, session.message = actions, notice
        self._keys = {key: action.id for action in reversed(list(actions.values())) for key in action.keys}
        self._mouse = mouse
        self._jobs: queue.Queue[Job | None] = queue.Queue()
        self._canvas = Canvas(colours=session.options.colours)
        self._asked = ""
        self._frame: Frame | None = None
        self._room = (24, 80)
        self._last = time.perf_counter()
        self._thread = threading.Thread(target=self._work, name="nanscope-replay", daemon=True)
        self._errands: queue.Queue[Errand | None] = queue.Queue()
        self._helper = threading.Thread(target=self._run_errands, name="nanscope-files", daemon=True)
        self._rest = 0.0

    def compose(self) -> ComposeResult:
        """The canvas, and the line that a prompt is answered in."""
        yield self._canvas
        yield Input(id="prompt")

    def on_mount(self) -> None:
        """Begin."""
        self._canvas.focus()
        self.app_resume_signal.subscribe(self._canvas, lambda _: self.refresh(layout=True))
        self._room = self.size.height, self.size.width
        self._thread.start()
        self._post(lambda: None)
        if not self.session.options.alone:
            self._errands.put(self.session.find_siblings)
        self._helper.start()
        self.set_interval(1 / self.session.options.frames, self._tick)
        self.set_interval(SECOND, self._refresh)

    async def on_unmount(self) -> None:
        """End: the worker's last picture is still taken, so that nothing is left waiting for it."""
        self._errands.put(None)
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    def on_resize(self, event: events.Resize) -> None:
        """Draw for another size."""
        self._room = event.size.height, event.size.width
        self._post(lambda: None)

    # -- in: keys, mouse, prompts -------------------------------------------------------------------------

    def on_key(self, event: events.Key) -> None:
        """A key of the table."""
        if self._asked:
            if event.key == "escape":
                event.stop()
                self._close_prompt()
            return
        name = self._keys.get(event.key)
        if name is not None and len(self.screen_stack) == 1:
            event.stop()
            event.prevent_default()
            self.act(name)

    def act(self, name: str) -> None:
        """Do an action of the table."""
        self._post(partial(self.session.act, name))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """A prompt was answered."""
        name, text = self._asked, event.value
        self._close_prompt()
        self._post(partial(self.session.answer, name, text))

    def on_mouse_down(self, event: events.MouseDown) -> None:
        """A click."""
        self._point(event, "click")

    def on_click(self, event: events.Click) -> None:
        """A second click on a title: that pane alone."""
        if event.chain == 2:
            self._point(event, "double")

    def on_mouse_up(self, event: events.MouseUp) -> None:
        """The end of a drag."""
        self._point(event, "drop")

    def on_mouse_move(self, event: events.MouseMove) -> None:
        """A drag."""
        if event.button:
            self._point(event, "drag")

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Closer."""
        self._point(event, "closer")

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Farther."""
        self._point(event, "farther")

    def _point(self, event: events.MouseEvent, how: str) -> None:
        if self._mouse and self._frame is not None and not self._asked:
            row, column = int(event.screen_y), int(event.screen_x)
            self._post(partial(pointed, self.session, self._frame, how, row, column))

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """The palette: the table."""
        del screen
        for action in self.session.actions.values():
            yield SystemCommand(f"{action.shown}  {action.words}", action.group, partial(self.act, action.id))

    # -- the worker ---------------------------------------------------------------------------------------

    def _post(self, job: Job | Callable[[], None]) -> None:
        self._jobs.put(job)

    def _work(self) -> None:
        """Do what is waiting, then draw once: pictures are dropped, never queued."""
        while (job := self._jobs.get()) is not None:
            done, effects = 1, [self._done(job)]
            while self._jobs.queue and (more := self._jobs.queue[0]) is not None:
                self._jobs.get()
                done, effects = done + 1, [*effects, self._done(more)]
            frame = self.session.frame(*self._room)
            try:
                for effect in effects:
                    if effect is not None:
                        self.call_from_thread(self._do, effect)
                self.call_from_thread(self._show, frame)
            except RuntimeError:  # the terminal is gone
                return
            finally:
                for _ in range(done):
                    self._jobs.task_done()

    def _done(self, job: Job) -> Effect | None:
        try:
            return job()
        except Exception as error:  # noqa: BLE001 - said on the screen; the run file is only read
            self.session.say(f"{type(error).__name__}: {error}")
            return None

    def _run_errands(self) -> None:
        """Do what takes long, one after the other."""
        while (errand := self._errands.get()) is not None:
            begin = time.monotonic()
            try:
                self._post(errand())
            except Exception as error:  # noqa: BLE001 - said on the screen; the run file is only read
                self._post(partial(self.session.say, f"{type(error).__name__}: {error}"))
            finally:
                self._rest = time.monotonic() + BREAK * (time.monotonic() - begin)
                self._errands.task_done()

    def settle(self) -> None:
        """Wait until everything that was asked for is done; not on the terminal's own thread."""
        self._errands.join()
        self._jobs.join()

    def _tick(self) -> None:
        now = time.perf_counter()
        if self.session.speed and self._jobs.empty():
            self._post(partial(self.session.tick, now - self._last))
        self._last = now

    def _refresh(self) -> None:
        if not self._errands.unfinished_tasks and time.monotonic() >= self._rest:
            self._errands.put(self.session.watch)

    # -- out: pictures and effects ------------------------------------------------------------------------

    def _display(self, screen: Screen[Any], renderable: RenderableType | None) -> None:
        super()._display(screen, narrowed(renderable))

    def _show(self, frame: Frame) -> None:
        self._frame = frame
        self._canvas.show(frame.cells)

    def _do(self, effect: Effect) -> None:
        if effect.kind == "quit":
            self.exit()
        elif effect.kind == "palette":
            self.action_command_palette()
        elif effect.kind == "prompt":
            self._ask(effect.text, effect.about)
        elif effect.kind == "copy":
            self._copy(effect.text)
        else:
            self._save(effect.text)

    def _save(self, name: str) -> None:
        try:
            self.notify(f"wrote {self.save_screenshot(name)}", markup=False)
        except OSError as error:
            self.notify(f"cannot write {name}: {error}", severity="error", markup=False)

    def _copy(self, text: str) -> None:
        """To the clipboard, and to a file for terminals that refuse that."""
        self.copy_to_clipboard(text)
        path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nanscope" / "copied.txt"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n", encoding="utf-8")
        except OSError:
            self.notify("copied", markup=False)
        else:
            self.notify(f"copied, and written to {path}", markup=False)

    def _ask(self, name: str, about: str) -> None:
        self._asked = name
        prompt = self.query_one("#prompt", Input)
        prompt.placeholder, prompt.value = about, ""
        prompt.add_class("asked")
        prompt.focus()

    def _close_prompt(self) -> None:
        self._asked = ""
        self.query_one("#prompt", Input).remove_class("asked")
        self._canvas.focus()
