"""The place: where one looks. Panes are functions of it, keys are functions from one place to the next."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from nanscope.replay.axis import Unit
from nanscope.replay.stats import DEFAULT

LANDING = 0.7
"""Where in a moved window the target of a jump stands: what came before is what one needs to see."""
CLOSE = 200  # steps around the first non-finite value
NARROWEST = 10
REFERENCES = ("own", "raw", "baseline")
EVENTS = frozenset({(1, 2), (5, 0)})
"""Screens and panes that list events: there the chosen line is counted from the event at the playhead."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one looks.

    Attributes:
        case: number of the focused case.
        row: of that case, at the playhead.
        rows: how many it has.
        start, stop: the window, in its rows.
        module: of the model, in focus; None until one is chosen.
        stat: what the heat map shows, see `stats.STATS`.
        screen: 1 to 6; 0 is the help.
        pane: number of the pane in focus.
        picked: lines from where a list begins, see `EVENTS`, to the chosen one.
        baseline: number of the case that others are compared with.
        reference: what a heat map counts decades from: its own begin, nothing, or the baseline.
        digits, linear: how the heat map and the loss are drawn.
        zoomed: whether the pane in focus fills the screen.
        only: a filter for layers or findings.
    """

    case: int = 0
    row: int = 0
    rows: int = 0
    start: int = 0
    stop: int = 1
    module: str | None = None
    stat: str = DEFAULT
    screen: int = 1
    pane: int = 0
    picked: int = 0
    baseline: int = 0
    unit: Unit = Unit.STEPS
    reference: str = "own"
    digits: bool = False
    linear: bool = False
    zoomed: bool = False
    only: str = ""

    @property
    def width(self) -> int:
        """Rows in the window."""
        return self.stop - self.start

    def at(self, row: int) -> Place:
        """The playhead at a row, the window moved as little as it must."""
        row = max(0, min(self.rows - 1, row))
        if self.start <= row < self.stop:
            return self._to(row)
        start = row if row < self.start else row - self.width + 1
        return self._to(row).window(start, start + self.width)

    def land(self, row: int) -> Place:
        """A jump: the zoom stays; a window that does not hold the target is moved, see `LANDING`."""
        row = max(0, min(self.rows - 1, row))
        if self.start <= row < self.stop:
            return self._to(row)
        start = row - int(LANDING * self.width)
        return self._to(row).window(start, start + self.width)

    def _to(self, row: int) -> Place:
        """The playhead at a row; in a list of events the one there is the chosen one again."""
        follows = row != self.row and (self.screen, self.pane) in EVENTS
        return replace(self, row=row, picked=0 if follows else self.picked)

    def window(self, start: float, stop: float) -> Place:
        """Another window, of the same width where it would leave the run."""
        width = max(min(NARROWEST, self.rows), min(self.rows, round(stop - start)), 1)
        begin = max(0, min(self.rows - width, round(start)))
        return replace(self, start=begin, stop=begin + width)

    def zoom(self, factor: float) -> Place:
        """The window shrunk or grown around the playhead, which keeps its share of it."""
        width = max(NARROWEST, round(self.width / factor))
        share = (self.row - self.start) / max(1, self.width)
        begin = max(self.row - width + 1, self.row - share * width)  # rounded, it still holds the playhead
        return self.window(begin, begin + width)

    def fit(self) -> Place:
        """The whole run."""
        return self.window(0, self.rows)

    def pan(self, share: float) -> Place:
        """The window moved by a share of itself; the playhead stays within."""
        return self.window(self.start + share * self.width, self.stop + share * self.width).within()

    def within(self) -> Place:
        """The playhead moved as little as it must to be in the window."""
        return replace(self, row=max(self.start, min(self.stop - 1, self.row)))

    def around(self, row: int, rows: int = CLOSE) -> Place:
        """A window of so many rows around one."""
        there = replace(self, row=max(0, min(self.rows - 1, row)))
        return there.window(row - rows // 2, row - rows // 2 + rows)


@dataclass(slots=True)
class History:
    """Places that one came from by jumps."""

    _before: list[Place] = field(default_factory=list)
    _after: list[Place] = field(default_factory=list)

    def jump(self, place: Place) -> None:
        """A place is left by a jump."""
        self._before.append(place)
        self._after.clear()

    def undo(self, place: Place) -> Place | None:
        """Where the last jump began; None without one."""
        if not self._before:
            return None
        self._after.append(place)
        return self._before.pop()

    def redo(self, place: Place) -> Place | None:
        """Where the jump that was undone had led; None without one."""
        if not self._after:
            return None
        self._before.append(place)
        return self._after.pop()
