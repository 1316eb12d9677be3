"""The panes against plain looks at the story's numbers: axes, layers, predictions, raw numbers."""

from __future__ import annotations

import numpy as np
import pytest

from nanscope.replay.place import EVENTS
from nanscope.tui.frame import PANES, draw
from nanscope.tui.panes.loss import margin
from tests.replay.story import BIRTH
from tests.tui.scenes import scene


@pytest.mark.parametrize(("width", "height"), [(200, 50), (120, 36), (80, 24)])
@pytest.mark.parametrize("window", [(0, 40_000), (20_000, 27_000), (BIRTH - 20, BIRTH + 20)])
def test_loss_and_heat_have_one_axis(width: int, height: int, window: tuple[int, int]) -> None:
    """The playhead of the loss, of its rail and of every row of heat is one column of the screen."""
    row = (window[0] + window[1]) // 2 - 3
    shown = scene(row=row, start=window[0], stop=window[1], digits=True)
    drawn = draw(shown, height, width)
    loss, heat = (next(each for each in drawn.rects if each.pane == name) for name in ("loss", "heat"))
    left = margin(shown, loss.width)
    column = left + (row - window[0]) * (loss.width - left - 1) // (window[1] - window[0])
    bars = drawn.cells.glyphs[:, column] == shown.glyphs.bar
    assert bars[heat.top + 1 : heat.top + 4].all()
    assert bars[loss.top + 1 : loss.top + loss.height - 1].any()
    assert np.count_nonzero(drawn.cells.glyphs[heat.top + 1] == shown.glyphs.bar) <= 2


def test_lists_of_events_are_panes_of_that_name() -> None:
    """Where the chosen line is counted from the playhead there is a list of events, and nowhere else."""
    found = {(s, n) for s, names in PANES.items() for n, name in enumerate(names) if name == "findings"}
    assert found == EVENTS
