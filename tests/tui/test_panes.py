"""The panes against plain looks at the story's numbers: axes, layers, predictions, raw numbers."""

from __future__ import annotations

import numpy as np
import pytest

from nanscope.diagnosis import diagnose
from nanscope.replay.place import EVENTS
from nanscope.tui.frame import PANES, draw
from nanscope.tui.panes.loss import margin
from nanscope.tui.panes.overview import overview_of
from nanscope.values import Kind
from tests.builders import make_run
from tests.replay.story import BIRTH
from tests.tui.scenes import scene, told


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


def test_the_overview_of_a_run_as_text() -> None:
    """Every layer over all steps, as a look at every row has it: what was not finite, and whole decades."""
    case = told(1)
    shown = overview_of(case.run, case.diagnosis)
    assert shown is not None
    assert shown.stat == "output norm"
    assert "a column is 1.2k steps" in shown.aside
    sites = case.sites(Kind.OUTPUT, "l2")
    assert len(shown.rows) == len(sites)
    for (_, digits), site in zip(shown.rows, sites, strict=True):
        values = case.run.series(site, "l2", 0, case.rows).astype(float)
        parts = [values[i * case.rows // 50 : (i + 1) * case.rows // 50] for i in range(50)]
        assert [digit == "x" for digit in digits] == [not np.isfinite(part).all() for part in parts]
        usual = np.median(values[: case.rows // 10])
        for digit, part in zip(digits, parts, strict=True):
            if digit != "x":
                told_ = 0 if digit == "." else int(digit)
                assert told_ == pytest.approx(max(0, np.log10(part.max() / usual)), abs=1.1)


def test_the_overview_of_many_layers_is_short() -> None:
    """Of forty layers the twenty that broke or grew, those that broke among them, in order of execution."""
    outputs = {f"block{i:02}": np.full(30, 10.0 ** (i % 7)) for i in range(40)}
    for values in outputs.values():
        values[:3] = 1.0
    outputs["block35"][20] = np.nan
    run = make_run(outputs=outputs, loss=np.ones(30))
    shown = overview_of(run, diagnose(run))
    assert shown is not None
    assert "20 of 40 layers" in shown.aside
    names = [name for name, _ in shown.rows]
    assert len(names) == 20
    assert names == sorted(names)
    assert "block35" in names
    assert dict(shown.rows)["block35"][20] == "x"
    assert "block06" in names
    assert "block00" not in names


def test_there_is_no_overview_of_nothing() -> None:
    """Without a layer, or without a step."""
    for run in (make_run(loss=np.ones(5)), make_run(outputs={"fc": np.ones(0)}, loss=np.ones(0))):
        assert overview_of(run, diagnose(run)) is None
