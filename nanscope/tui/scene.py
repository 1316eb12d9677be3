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
from nanscope.replay.compare import edges_at
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

    def edges_on(self, case: int, count: int) -> Edges:
        """The window in the rows of another case; empty where it has none."""
        if case == self.place.case:
            return self.edges(count)
        positions = np.linspace(*self.stretch(), count + 1)
        return edges_at(self.desk.cases[case], self.desk.axes[case], positions, self.place.unit)

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
