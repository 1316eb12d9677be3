"""The mouse: what a click, a drag or the wheel means at a cell of the picture."""

from __future__ import annotations

from dataclasses import replace

from nanscope.raster.lane import LABELS
from nanscope.replay.place import NARROWEST
from nanscope.tui.frame import PANES, Frame, Rect
from nanscope.tui.moves import ZOOM, to_stop
from nanscope.tui.panes.chrome import LABEL
from nanscope.tui.panes.heatmap import names_width, visible
from nanscope.tui.panes.loss import margin
from nanscope.tui.panes.predict import NUMBERS
from nanscope.tui.panes.words import at_event, shown_stops
from nanscope.tui.scene import Scene
from nanscope.tui.session import Session

SAME = {"chosen": "findings"}
"""Panes that are drawn under another name."""


def pointed(session: Session, frame: Frame, how: str, row: int, column: int) -> None:
    """Move to where the mouse points."""
    rect = next((each for each in frame.rects if each.holds(row, column)), None)
    if rect is None or not session.place.rows:
        return
    if how in ("closer", "farther"):
        at = _row_at(session, rect, column)
        around = session.place if at is None else session.place.at(at)
        session.place = around.zoom(ZOOM if how == "closer" else 1 / ZOOM)
        return
    if how == "double":
        _alone(session, rect, row)
        return
    if how == "drop":
        _drop(session, rect, column)
        return
    if how == "click":
        session.anchor = _row_at(session, rect, column) if rect.pane == "loss" else None
    if rect.pane == "timeline":
        share = (column - LABEL) / max(1, rect.width - LABEL - 1)
        session.place = session.place.land(round(max(0.0, min(1.0, share)) * (session.place.rows - 1)))
    elif rect.pane in ("findings", "chosen"):
        _to_event(session, rect, row - rect.top - 1)
    elif (at := _row_at(session, rect, column)) is not None:
        session.place = session.place.at(at)
        if rect.pane == "heat":
            _to_layer(session, rect, row - rect.top - 1)


def _drop(session: Session, rect: Rect, column: int) -> None:
    """What was dragged over in the loss becomes the window."""
    anchor, session.anchor = session.anchor, None
    end = _row_at(session, rect, column)
    if anchor is None or end is None or abs(end - anchor) < NARROWEST:
        return
    session.history.jump(session.place)
    session.place = session.place.window(min(anchor, end), max(anchor, end) + 1)


def _alone(session: Session, rect: Rect, row: int) -> None:
    """A pane whose title was clicked twice fills the screen, and back."""
    names, name = PANES[session.place.screen], SAME.get(rect.pane, rect.pane)
    if row == rect.top and name in names:
        session.place = replace(session.place, pane=names.index(name), zoomed=not session.place.zoomed)


def _row_at(session: Session, rect: Rect, column: int) -> int | None:
    """The row of the run under a column of a plot."""
    left = rect.left + _margin(session.scene, rect)
    if rect.pane not in ("loss", "layer", "heat", "strip") or column < left:
        return None
    width = rect.left + rect.width - 1 - left
    return session.place.start + (column - left) * session.place.width // max(1, width)


def _margin(scene: Scene, rect: Rect) -> int:
    """Cells of a pane left of its plot."""
    known = {"layer": LABELS, "strip": NUMBERS, "loss": margin(scene, rect.width)}
    return known.get(rect.pane, names_width(scene, rect.width))


def _to_layer(session: Session, rect: Rect, line: int) -> None:
    shown = visible(session.scene, session.scene.sites(), rect.height - 1)
    if 0 <= line < len(shown):
        session.place = replace(session.place, module=shown[line].module)


def _to_event(session: Session, rect: Rect, line: int) -> None:
    stops = shown_stops(session.scene)
    room = rect.height - 1
    at = at_event(session.scene)
    first = max(0, min(len(stops) - room, at - room // 2))
    if line >= 0 and first + line < len(stops):
        session.history.jump(session.place)
        session.place = replace(to_stop(session.scene, stops[first + line]), picked=0)
