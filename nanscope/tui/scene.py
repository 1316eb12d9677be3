"""The scene: everything that a pane may show, as one value."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from nanscope.raster.lane import Look
from nanscope.raster.palette import CASES, Glyphs, Graph, glyphs_of
from nanscope.replay.axis import Axis, Unit
from nanscope.replay.cases import Case
from nanscope.replay.columns import Edges, edges_of
from nanscope.replay.heat import reference_of
from nanscope.replay.marks import Mark
from nanscope.replay.place import Place
from nanscope.replay.stats import sites_of
from nanscope.replay.stops import Stop, stops_of
from nanscope.tui.keys import ACTIONS, Action
from nanscope.values import Site


@dataclass(eq=False)
class Desk:
    """The cases that are open, with what is worth keeping between two pictures.

    Attributes:
        marks: of each case.
    """

    cases: tuple[Case, ...]
    marks: tuple[tuple[Mark, ...], ...]
    axes: tuple[Axis, ...] = field(init=False)
    stops: tuple[tuple[Stop, ...], ...] = field(init=False)
    _usual: dict[tuple[int, int, str, str], NDArray[np.float64]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.axes = tuple(Axis(case) for case in self.cases)
        self.stops = tuple(stops_of(*pair) for pair in zip(self.cases, self.marks, strict=True))

    def usual(self, case: int, baseline: int, stat: str, reference: str) -> NDArray[np.float64]:
        """What decades are counted from, per site of a stat."""
        key = case, baseline, stat, reference
        if key not in self._usual:
            self._usual[key] = reference_of(self.cases[case], self.cases[baseline], stat, reference)
        return self._usual[key]


@dataclass(frozen=True, slots=True)
class Scene:
    """What is to be drawn.

    Attributes:
        condition: what one runs to, as typed.
        speed: of playing, 0 when paused.
        message: a line for the reader, such as why playing stopped.
        follows: whether the last step of a live run is followed.
        colours: whether the terminal shows any.
        notice: how the writer of a live run does, such as `LIVE 0.8s`.
        columns: of the plot that was drawn last, which a move by one column is counted in.
        actions: the table of keys.
    """

    desk: Desk
    place: Place
    graph: Graph = Graph.BRAILLE
    condition: str = ""
    speed: float = 0.0
    message: str = ""
    follows: bool = False
    colours: bool = True
    notice: str = ""
    columns: int = 72
    actions: Mapping[str, Action] = field(default_factory=lambda: ACTIONS)

    @property
    def case(self) -> Case:
        """The one in focus."""
        return self.desk.cases[self.place.case]

    @property
    def axis(self) -> Axis:
        """Of the case in focus."""
        return self.desk.axes[self.place.case]

    @property
    def stops(self) -> tuple[Stop, ...]:
        """Of the case in focus."""
        return self.desk.stops[self.place.case]

    @property
    def glyphs(self) -> Glyphs:
        """The marks that can be shown."""
        return glyphs_of(self.graph)

    @property
    def digits(self) -> bool:
        """Whether heat maps are drawn with digits: asked for, or without colours."""
        return self.place.digits or not self.colours

    def on(self, case: int) -> Scene:
        """The same with another case in focus, at the same position of the axis."""
        return self if case == self.place.case else replace(self, place=moved(self, case))

    def look(self, width: int) -> Look:
        """How a plot of this width is drawn."""
        place = self.place
        column = (place.row - place.start) * width // max(1, place.width)
        seen = place.start <= place.row < place.stop
        return Look(self.graph, column if seen else None, place.linear, self.digits)

    def edges(self, count: int) -> Edges:
        """The window of the case in focus in columns."""
        return edges_of(self.place.start, self.place.stop, count)

    def stretch(self) -> tuple[float, float]:
        """Of the axis, that the window covers."""
        low = self.axis.at(self.place.start - 1, self.place.unit) if self.place.start else 0.0
        return low, self.axis.at(self.place.stop - 1, self.place.unit)

    def whole(self) -> tuple[float, float]:
        """The stretch of the window; of all cases, if the window holds all of the case in focus."""
        if self.place.start or self.place.stop < self.place.rows:
            return self.stretch()
        pairs = zip(self.desk.axes, self.desk.cases, strict=True)
        return 0.0, max(axis.at(case.rows - 1, self.place.unit) for axis, case in pairs)

    def edges_on(self, case: int, count: int) -> Edges:
        """The window in the rows of another case; empty where it has none."""
        return self.edges(count) if case == self.place.case else self.edges_in(self.stretch(), case, count)

    def edges_in(self, stretch: tuple[float, float], case: int, count: int) -> Edges:
        """A stretch of the axis in the rows of a case; empty where it has none."""
        (low, high), unit = stretch, self.place.unit
        axis, rows = self.desk.axes[case], self.desk.cases[case].rows
        if not rows:
            return Edges(np.zeros(count, np.int64), np.zeros(count, np.int64))
        first, last = axis.at(0, unit), axis.at(rows - 1, unit)
        at = low + (high - low) * np.arange(count + 1) / max(1, count)
        ends = np.array([rows if x >= last else axis.row(x, unit) + 1 if x >= first else 0 for x in at])
        starts = np.minimum(ends[:-1], rows)
        held = (at[1:] >= first) & (at[:-1] < last)
        # narrower than one step: the step that is under way
        return Edges(np.where(held, np.minimum(starts, np.maximum(ends[1:] - 1, 0)), starts), ends[1:])

    def sites(self) -> tuple[Site, ...]:
        """Rows of the heat map, those that pass the filter."""
        found = sites_of(self.case, self.place.stat)
        return tuple(site for site in found if passes(self.place.only, site.name or "model"))


def moved(scene: Scene, case: int) -> Place:
    """The place in another case: the last row at or before the same position, and the same window."""
    place, unit = scene.place, scene.place.unit
    axis, rows = scene.desk.axes[case], scene.desk.cases[case].rows
    row, start, stop = (
        axis.row(scene.axis.at(at, unit), unit) for at in (place.row, place.start, place.stop - 1)
    )
    there = replace(place, case=case, rows=rows, row=row)
    return there.window(start, stop + 1) if rows else replace(there, start=0, stop=1)


def passes(only: str, name: str) -> bool:
    """Whether a name passes a filter: a part of it, a pattern with `*`, or `~` and a regular expression."""
    if not only:
        return True
    if only.startswith("~"):
        try:
            return re.search(only[1:], name) is not None
        except re.error:
            return False
    return fnmatchcase(name, only) if "*" in only or "?" in only else only in name


def colour_of(case: int) -> int:
    """The colour that a case has everywhere."""
    return CASES[case % len(CASES)]


def unit_for(cases: Sequence[Case]) -> Unit:
    """What is counted at first: samples make several cases comparable."""
    return Unit.SAMPLES if len(cases) > 1 else Unit.STEPS
