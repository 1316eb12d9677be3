"""What keys do to the place: functions from a scene to the next place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from nanscope.errors import UsageError
from nanscope.replay.axis import Unit
from nanscope.replay.place import REFERENCES, Place
from nanscope.replay.stats import recorded
from nanscope.replay.stops import Stop, divergence, first_bad, next_stop
from nanscope.tui.frame import PANES
from nanscope.tui.panes.cause import told_of
from nanscope.tui.panes.manual import manual_lines
from nanscope.tui.panes.raw import shown_entries
from nanscope.tui.panes.words import at_event, event_before, in_list, shown_stops
from nanscope.tui.scene import Scene, moved

Move = Callable[[Scene], Place]
ZOOM = 2.0
PAN = 0.25
HEAT, LAYERS = (1, 0), 3  # the pane of Overview that lists layers, and the screen of one of them


def to_stop(scene: Scene, stop: Stop) -> Place:
    """A jump to an event, and to its layer."""
    place = scene.place.land(stop.row)
    return place if stop.module is None else replace(place, module=stop.module)


def _event(scene: Scene, *, forward: bool) -> Place:
    stop = next_stop(scene.stops, scene.place.row, forward=forward)
    if stop is None:
        word = "after" if forward else "before"
        raise UsageError(f"no event {word} this step", "N goes back" if forward else "n goes on")
    return to_stop(scene, stop)


def _first_bad(scene: Scene) -> Place:
    bad = first_bad(scene.case)
    if bad is None:
        raise UsageError(f"no non-finite value in {scene.case.rows} steps", "n is the next event")
    if scene.place.row == bad.row:
        return replace(scene.place.around(bad.row), module=bad.module)
    return to_stop(scene, bad)


def _divergence(scene: Scene) -> Place:
    place, cases = scene.place, scene.desk.cases
    if len(cases) < 2:
        raise UsageError(
            "one case has nothing to leave", f"open another: nanscope replay {scene.case.path} OTHER.h5"
        )
    if place.case == place.baseline:
        raise UsageError("this case is the baseline", "] is the next case")
    row = divergence(scene.case, cases[place.baseline])
    if row is None:
        raise UsageError("its loss stays within twice the baseline's", "c runs to a condition of yours")
    return place.land(row)


LISTS: Mapping[str, Callable[[Scene], int]] = {
    "findings": lambda scene: len(shown_stops(scene)),
    "cause": lambda scene: len(told_of(scene)),
    "help": lambda scene: len(manual_lines(scene)),
    "raw": lambda scene: len(shown_entries(scene)),
}
"""Panes whose rows are chosen or scrolled, and how many they have."""


def _layer(scene: Scene, by: int) -> Place:
    place = scene.place
    name = PANES[place.screen][place.pane % len(PANES[place.screen])]
    if name in LISTS:
        begin = max(0, event_before(scene)) if in_list(scene) else 0
        return replace(place, picked=max(0, min(LISTS[name](scene) - 1, begin + place.picked + by)) - begin)
    modules = list(dict.fromkeys(site.module for site in scene.sites()))
    if not modules:
        return place
    at = modules.index(place.module) if place.module in modules else -by
    return replace(place, module=modules[max(0, min(len(modules) - 1, at + by))])


def _stat(scene: Scene, by: int) -> Place:
    names = recorded(scene.case) or [scene.place.stat]
    at = names.index(scene.place.stat) if scene.place.stat in names else 0
    return replace(scene.place, stat=names[(at + by) % len(names)])


def _unit(scene: Scene) -> Place:
    units = [unit for unit in Unit if unit is not Unit.EPOCHS or scene.case.per_epoch]
    at = units.index(scene.place.unit) if scene.place.unit in units else -1
    return replace(scene.place, unit=units[(at + 1) % len(units)])


def _case(scene: Scene, by: int) -> Place:
    return moved(scene, (scene.place.case + by) % len(scene.desk.cases))


def _pick(scene: Scene) -> Place:
    """The chosen layer alone on its screen, or the chosen event."""
    stops, place = shown_stops(scene), scene.place
    if (place.screen, place.pane) == HEAT:
        return _screen(LAYERS)(scene)
    return to_stop(scene, stops[at_event(scene)]) if stops else place


def _pane(scene: Scene, by: int) -> Place:
    return replace(scene.place, pane=(scene.place.pane + by) % len(PANES[scene.place.screen]), picked=0)


def _column(scene: Scene, by: int) -> Place:
    place, columns = scene.place, scene.columns
    at = (place.row - place.start) * columns // max(1, place.width)
    if place.width <= columns:
        return place.at(place.row + by)
    # the first row of the next column: never a column that is the same
    row = place.start + -(-(at + by) * place.width // columns)
    return place.at(row)


def _screen(number: int) -> Move:
    return lambda scene: replace(scene.place, screen=number, pane=0, picked=0, zoomed=False)


def _close(scene: Scene) -> Place:
    place = scene.place
    if place.zoomed:
        return replace(place, zoomed=False)
    if place.only:
        return replace(place, only="")
    return replace(place, screen=1, pane=0, picked=0)


def _reference(scene: Scene) -> Place:
    at = REFERENCES.index(scene.place.reference)
    return replace(scene.place, reference=REFERENCES[(at + 1) % len(REFERENCES)])


MOVES: Mapping[str, Move] = {
    "next_step": lambda s: s.place.at(s.place.row + 1),
    "previous_step": lambda s: s.place.at(s.place.row - 1),
    "next_column": lambda s: _column(s, 1),
    "previous_column": lambda s: _column(s, -1),
    "next_page": lambda s: s.place.at(s.place.row + s.place.width),
    "previous_page": lambda s: s.place.at(s.place.row - s.place.width),
    "first_step": lambda s: s.place.at(0),
    "last_step": lambda s: s.place.at(s.place.rows - 1),
    "next_event": lambda s: _event(s, forward=True),
    "previous_event": lambda s: _event(s, forward=False),
    "first_bad": _first_bad,
    "divergence": _divergence,
    "zoom_in": lambda s: s.place.zoom(ZOOM),
    "zoom_out": lambda s: s.place.zoom(1 / ZOOM),
    "fit": lambda s: s.place.fit(),
    "pan_left": lambda s: s.place.pan(-PAN),
    "pan_right": lambda s: s.place.pan(PAN),
    "up": lambda s: _layer(s, -1),
    "down": lambda s: _layer(s, 1),
    "pick": _pick,
    "next_pane": lambda s: _pane(s, 1),
    "previous_pane": lambda s: _pane(s, -1),
    "maximise": lambda s: replace(s.place, zoomed=not s.place.zoomed),
    "next_stat": lambda s: _stat(s, 1),
    "previous_stat": lambda s: _stat(s, -1),
    "reference": _reference,
    "digits": lambda s: replace(s.place, digits=not s.place.digits),
    "linear": lambda s: replace(s.place, linear=not s.place.linear),
    "unit": _unit,
    "previous_case": lambda s: _case(s, -1),
    "next_case": lambda s: _case(s, 1),
    "baseline": lambda s: replace(s.place, baseline=s.place.case),
    "help": lambda s: replace(s.place, screen=0 if s.place.screen else 1, pane=0, picked=0),
    "close": _close,
    **{f"screen_{number}": _screen(number) for number in range(1, 7)},
}
JUMPS = frozenset(
    {
        "next_page", "previous_page", "first_step", "last_step", "next_event", "previous_event", "first_bad",
        "divergence", "pick", "fit",
    }
)  # fmt: skip
"""Moves that undo takes back."""
