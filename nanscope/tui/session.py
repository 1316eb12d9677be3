"""The session: what a person does, one action after the other, without a terminal.

It lives in a worker: it reads files, and the terminal never waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from nanscope.errors import NanscopeError, UsageError
from nanscope.raster.palette import Graph
from nanscope.replay import condition, goto, marks
from nanscope.replay.cases import Case, ordered, siblings_of
from nanscope.replay.place import History, Place
from nanscope.replay.stops import Stop
from nanscope.tui.frame import Frame, columns_of, draw
from nanscope.tui.keys import ACTIONS, Action
from nanscope.tui.moves import JUMPS, MOVES
from nanscope.tui.outgoing import copied, free_name, report
from nanscope.tui.scene import Desk, Scene, unit_for
from nanscope.tui.watch import News, look, notice_of, reread, stamp_of
from nanscope.values import Severity

CROSSING = 20.0  # seconds in which playing crosses the window at speed 1
SLOWEST, FASTEST = 0.125, 64.0
LONGEST = 0.1  # seconds that one picture may stand for
PROMPTS: Mapping[str, str] = {
    "goto": f"go to {goto.FORMS}",
    "condition": f"run to {condition.FORMS}",
    "mark": "a note for this step",
    "marks": "go to the mark",
    "filter": "show only names with this in them, or matching a*b, or ~ and a regular expression",
}


@dataclass(frozen=True, slots=True)
class Effect:
    """What the terminal is to do: `prompt`, `copy`, `save`, `palette` or `quit`, with a text.

    Attributes:
        about: what a prompt asks.
    """

    kind: str
    text: str = ""
    about: str = ""


@dataclass(frozen=True, slots=True)
class Options:
    """How the replay was started."""

    graph: Graph = Graph.BRAILLE
    colours: bool = True
    alone: bool = False
    frames: int = 15


class Session:
    """One person at one desk."""

    def __init__(self, cases: Sequence[Case], options: Options, focus: int = 0) -> None:
        self.options = options
        self.history = History()
        self.condition, self.message = "", ""
        self.speed, self._speed = 0.0, 1.0
        self._position, self._told = 0.0, 0
        self.follows = False
        self.anchor: int | None = None
        self._columns, self._trouble, self._errors = 1, "", tuple[str, ...]()
        self.actions: Mapping[str, Action] = ACTIONS
        self.place = Place()
        self._seat(cases, focus)

    def _seat(self, cases: Sequence[Case], focus: int) -> None:
        """Put cases on the desk and look at the whole of one, at what happened first."""
        self._renew(cases)
        case = cases[focus]
        self.place = Place(case=focus, rows=case.rows, row=max(0, case.rows - 1), unit=unit_for(cases)).fit()
        born = case.diagnosis.origin
        self.place = replace(self.place, module=born.module if born else _first_module(case))
        if born is not None:
            self.place = self.place.land(case.row_of(born.step))
        self.follows = case.is_live and born is None

    @property
    def scene(self) -> Scene:
        """What is to be drawn."""
        return Scene(
            self.desk, self.place, self.options.graph, self.condition, self.speed, self.message, self.follows,
            self.options.colours,
            notice_of(self.desk.cases[self.place.case], self.place.row, follows=self.follows), self._columns,
            self.actions,
        )  # fmt: skip

    def frame(self, height: int, width: int) -> Frame:
        """The picture."""
        drawn = draw(self.scene, height, width)
        self._columns, self._errors = columns_of(drawn, self.scene), drawn.errors
        return drawn

    def open_siblings(self) -> None:
        """The other cases of the experiment come to the desk; where one looks stays."""
        self.find_siblings()()

    def find_siblings(self) -> Callable[[], None]:
        """Open them, beside the worker, which then seats them."""
        return partial(self._seat_siblings, siblings_of(self.desk.cases[self.place.case]))

    def _seat_siblings(self, found: Sequence[Case]) -> None:
        case, place = self.scene.case, self.place
        if not found:
            return
        cases = ordered([case, *found])
        self._renew(cases)
        self.place = replace(place, case=cases.index(case), unit=unit_for(cases))

    def act(self, name: str) -> Effect | None:
        """Do what a key says; a mistake becomes the message."""
        self.message = ""
        try:
            return self._act(name)
        except NanscopeError as error:
            self.message = str(error)
            return None

    def _act(self, name: str) -> Effect | None:
        if name in MOVES:
            self._go(MOVES[name](self.scene), jump=name in JUMPS)
            if name == "last_step" and self.scene.case.is_live:
                self.follows = True
            return None
        if name in PROMPTS:
            return Effect("prompt", name, self._question(name))
        if name in ("palette", "quit"):
            return Effect(name)
        done: Effect | None = getattr(self, f"_{name}")()
        return done

    def _question(self, name: str) -> str:
        """What a prompt asks."""
        here = self.desk.marks[self.place.case]
        if name != "marks":
            return PROMPTS[name]
        if not here:
            raise UsageError("no mark yet", "m marks this step")
        return f"{PROMPTS[name]}: {', '.join(f'{mark.note} ({mark.step})' for mark in here)}"

    def _go(self, place: Place, *, jump: bool = False) -> None:
        if jump and (place.row, place.start, place.stop) != (
            self.place.row,
            self.place.start,
            self.place.stop,
        ):
            self.history.jump(self.place)
        if place.row < self.place.row:
            self.follows = False
        self.place = place
        self._position = float(place.row)

    def answer(self, name: str, text: str) -> None:
        """What was typed at a prompt."""
        self.message = ""
        try:
            self._answer(name, text.strip())
        except NanscopeError as error:
            self.message = str(error)

    def _answer(self, name: str, text: str) -> None:
        case, here = self.scene.case, self.desk.marks[self.place.case]
        if name in ("goto", "marks"):
            self._go(self.place.land(goto.row_of(text, case, self.place.row, here)), jump=True)
        elif name == "condition":
            self.condition = condition.parse(text, case).text
            self.message = f"c runs forward to {text}, C backward"
        elif name == "mark":
            marks.add(case.path, marks.Mark(case.step(self.place.row), text or "here"))
            self._renew(self.desk.cases)
            self.message = f"marked step {case.step(self.place.row)} in {marks.path_of(case.path)}"
        else:
            self.place = replace(self.place, only=text, picked=0)

    def say(self, text: str) -> None:
        """Show a line for the reader, until the next key."""
        self.message = text

    def _renew(self, cases: Sequence[Case]) -> None:
        self.desk = Desk(tuple(cases), tuple(marks.read(case.path) for case in cases))
        self._stamps = {case.path: stamp_of(case.path) for case in cases}

    # -- running and playing ------------------------------------------------------------------------------

    def _run_forward(self) -> None:
        self._run(forward=True)

    def _run_backward(self) -> None:
        self._run(forward=False)

    def _run(self, *, forward: bool) -> None:
        if not self.condition:
            raise UsageError("there is no condition yet", "b sets one")
        case = self.scene.case
        wanted = condition.parse(self.condition, case)
        row = condition.search(case, wanted, self.place.row, forward=forward)
        if row is None:
            word = "after" if forward else "before"
            raise UsageError(f"{self.condition} holds at no step {word} this one", "b sets another condition")
        self._go(self.place.land(row), jump=True)
        self.message = f"stopped at step {case.step(row)}: {self.condition}"

    def _play(self) -> None:
        if self.place.rows < 2:
            raise UsageError("one step cannot be played", "wait for more of them")
        if self.place.row >= self.place.rows - 1 and not self.speed:
            self._go(self.place.at(0))
        self.speed = 0.0 if self.speed else self._speed
        self._position = float(self.place.row)

    def _faster(self) -> None:
        self._pace(2.0)

    def _slower(self) -> None:
        self._pace(0.5)

    def _pace(self, factor: float) -> None:
        self._speed = max(SLOWEST, min(FASTEST, self._speed * factor))
        self.speed = self._speed if self.speed else 0.0
        self.message = f"speed x{self._speed:g}"

    def tick(self, seconds: float) -> None:
        """Time has passed while playing: the playhead moves, up to the next event or the condition."""
        if not self.speed:
            return
        step = self.place.width / CROSSING * self.speed * min(seconds, LONGEST)
        self._position = min(self._position + step, float(self.place.rows - 1))
        row = int(self._position)
        stop = self._stop_until(row)
        if stop is not None:
            self.speed, self.message = 0.0, f"stopped: {stop.what}"
            row, self._position = stop.row, float(stop.row)
        elif row >= self.place.rows - 1:
            self.speed, self.message = 0.0, "the end"
        self.place = self.place.land(row)

    def _stop_until(self, row: int) -> Stop | None:
        """What playing stops at on the way to a row: an event, or the condition."""
        case, here = self.scene.case, self.place.row
        event = next((each for each in self.scene.stops if here < each.row <= row), None)
        if not self.condition:
            return event
        wanted = condition.parse(self.condition, case)
        met = condition.search(case, wanted, here, forward=True, last=event.row if event else row)
        return event if met is None else Stop(met, Severity.NOTE, self.condition)

    # -- a run that is still written ---------------------------------------------------------------------

    def _follow(self) -> None:
        if not self.scene.case.is_live:
            raise UsageError("this run is over", "space plays it")
        self.follows = not self.follows
        if self.follows:
            self._take(reread([self.scene.case]))

    def _reopen(self) -> None:
        news = reread(self.desk.cases)
        self._take(news)
        self.message = news.trouble or "read again"

    def watch(self) -> Callable[[], None]:
        """Look at the files, beside the worker; what comes of it is for the worker to do."""
        return partial(self._take, look(self.desk.cases, self._stamps))

    def _take(self, news: News) -> None:
        """Go on with what was read again."""
        if news.trouble and news.trouble != self._trouble:
            self.message = news.trouble
        self._trouble = news.trouble
        if not news.fresh:
            return
        self._renew([news.fresh.get(case.path, case) for case in self.desk.cases])
        case = self.scene.case
        whole = self.place.start == 0 and self.place.stop >= self.place.rows
        self.place = replace(self.place, rows=case.rows, row=max(0, min(self.place.row, case.rows - 1)))
        self.place = self.place.fit() if whole else self.place.window(self.place.start, self.place.stop)
        if self.follows:
            self.place = self.place.land(self.place.rows - 1)
        if self.place.module is None:
            self.place = replace(self.place, module=_first_module(case))

    # -- jumps taken back, and what leaves the program --------------------------------------------------

    def _undo(self) -> None:
        self._return(self.history.undo(self.place), "no jump to take back")

    def _redo(self) -> None:
        self._return(self.history.redo(self.place), "no jump was taken back")

    def _return(self, place: Place | None, why: str) -> None:
        if place is None:
            raise UsageError(why, "n and ! jump")
        self.place = place

    def _copy(self) -> Effect:
        return Effect("copy", copied(self.scene, self._errors))

    def _save(self) -> Effect:
        return Effect("save", free_name(self.scene.case.path.stem, "svg"))

    def _report(self) -> None:
        self.message = f"wrote {report(self.scene)}"


def _first_module(case: Case) -> str | None:
    return next((site.module for site in case.run.sites), None)
