"""The panes against plain looks at the story's numbers: axes, layers, predictions, raw numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nanscope.detectors.nan_predictions import class_names
from nanscope.diagnosis import diagnose
from nanscope.raster.palette import BAD_BACK
from nanscope.replay.cases import Case
from nanscope.replay.place import EVENTS
from nanscope.replay.stats import STATS
from nanscope.tui.frame import DRAWN, PANES, draw
from nanscope.tui.panes.chrome import steps
from nanscope.tui.panes.layer import largest
from nanscope.tui.panes.loss import margin
from nanscope.tui.panes.overview import overview_of
from nanscope.tui.scene import Desk, Scene, colour_of
from nanscope.values import Epoch, Kind, Site
from tests.builders import make_run
from tests.replay.story import BIRTH
from tests.tui.scenes import BATCHES, alone, case_of, of, scene, told, whole


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
    assert "a column is 1,200 steps" in shown.aside
    sites = case.sites(Kind.OUTPUT, "l2")
    assert len(shown.rows) == len(sites)
    for (_, digits), site in zip(shown.rows, sites, strict=True):
        values = case.run.series(site, "l2", 0, case.rows).astype(float)
        parts = [values[i * case.rows // 50 : (i + 1) * case.rows // 50] for i in range(50)]
        assert [digit == "x" for digit in digits] == [not np.isfinite(part).all() for part in parts]
        usual = np.median(values[: case.rows // 10])
        for digit, part in zip(digits, parts, strict=True):
            if digit != "x":
                decades = np.clip(np.log10(part.max() / usual), 0, 9)
                assert int(digit.replace(".", "0")) == pytest.approx(decades, abs=1.1)


@pytest.mark.parametrize("rows", [1, 49, 50, 51, 377, 1_000])
def test_a_column_of_the_overview_is_a_whole_number_of_steps(rows: int) -> None:
    """What is said of a column holds for each but the last: one spike is where it has to be."""
    norms = np.ones(rows)
    norms[-1] = np.nan
    case = of(Desk((case_of(make_run(outputs={"fc": norms}, loss=np.ones(rows))),), ((),))).case
    shown = overview_of(case.run, case.diagnosis)
    assert shown is not None
    every = -(-rows // 50)
    assert f"a column is {f'{every} steps' if every > 1 else 'a step'}" in shown.aside
    digits = shown.rows[0][1]
    assert (len(digits), digits.index("x")) == (-(-rows // every), (rows - 1) // every)


@pytest.mark.parametrize(
    ("rows", "words"),
    [(1.0, "1 step"), (1.5, "1 or 2 steps"), (8.0, "8 steps"), (7.54, "7 or 8 steps"), (754.6, "755 steps"),
     (4096.0, "4.1k steps")],
)  # fmt: skip
def test_how_many_steps_a_column_has(rows: float, words: str) -> None:
    """No fraction of a step."""
    assert steps(rows) == words


@pytest.mark.parametrize(("width", "height"), [(120, 36), (80, 24)])
def test_each_case_is_compared_in_a_lane_of_its_own(width: int, height: int) -> None:
    """No line of another case stands in it; all of them have one scale."""
    shown = scene(row=BIRTH, screen=2)
    drawn = draw(shown, height, width).cells
    codes = np.vectorize(ord)(drawn.glyphs)
    dotted = (codes > 0x2800) & (codes < 0x2900)
    tall = (height - 9) // 3
    for number in range(3):
        place = np.s_[:, 40 * number : 40 * number + 39]
        if width < 120:
            place = np.s_[5 + number * tall : 5 + (number + 1) * tall, :]
        assert dotted[place].any()
        assert set(drawn.fore[place][dotted[place]].tolist()) == {colour_of(number)}


@pytest.mark.parametrize("height", range(20, 60))
def test_the_lanes_of_a_layer_fill_the_screen(height: int) -> None:
    """As many rows each, but for one more; none is left empty below them."""
    shown = scene(row=BIRTH, module="fc2", screen=3)
    lines = DRAWN["layer"](shown, height, 60).lines()
    heads = [row for row, line in enumerate(lines) if any(f" {s.name} " in line for s in STATS.values())]
    heads = [row for row in heads if not lines[row].lstrip().startswith("not recorded")]
    foot = height - any("not recorded" in line for line in lines)
    sizes = np.diff([*heads, foot])
    assert sizes.max() - sizes.min() <= 1 or sizes.min() == 3


def test_the_first_cause_is_told_on_a_small_screen() -> None:
    """At 80x24, with no key pressed: what happened where, the cause and why it is the cause."""
    shown = scene(row=BIRTH, screen=5)
    cause = shown.case.diagnosis.causes[0]
    lines = [line.strip() for line in draw(shown, 24, 80).cells.lines()]
    assert f"1 {cause.id}" in lines
    assert " ".join(cause.why.split()[:8]) in " ".join(lines)


def test_the_samples_of_the_bad_step_stand_beside_the_predictions() -> None:
    """At that step; at others nothing is known of them."""
    case = told(1)
    born = case.diagnosis.origin
    assert born is not None
    known = replace(case.diagnosis, origin=replace(born, dataset="digits train", dataset_rows=(1019,)))
    desk = Desk((replace(case, diagnosis=known),), ((),))
    at, before = (draw(of(desk, 0, row, screen=4), 36, 120).cells.lines() for row in (BIRTH, BIRTH - 1))
    assert "batch digits train[1019]" in "".join(at)
    assert "digits train" not in "".join(before)


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


def _shown(pane: str, shown: Scene, height: int = 30, width: int = 70) -> list[str]:
    return DRAWN[pane](shown, height, width).lines()


def test_the_confusion_matrix_is_the_one_of_the_evaluation() -> None:
    """Every count, the share of right ones by row and by column, and the worst pairs, by a plain count."""
    pairs = [
        (t, p) for t in range(3) for p in range(3) for _ in range((5, 1, 0, 2, 7, 0, 0, 4, 0)[3 * t + p])
    ]
    counts = tuple(tuple(sum(pair == (t, p) for pair in pairs) for p in range(3)) for t in range(3))
    epoch = Epoch(1, 5, 5, 1.0, 1.5, 0.6, 0.5, confusion=counts)
    run = make_run(loss=np.ones(10), epochs=(epoch,))
    lines = _shown("confusion", alone(run, row=8, screen=4))
    for true in range(3):
        mine = [predicted for t, predicted in pairs if t == true]
        numbers = [str(mine.count(p)) if p in mine else "·" for p in range(3)]
        share = f"{100 * mine.count(true) / len(mine):.0f}"
        assert lines[4 + true].split() == [str(true), *numbers, share]
    assert lines[7].split() == ["71", "58", "·", "col", "%"]
    assert [line.strip() for line in _shown("worst", alone(run, row=8, screen=4))[1:5]] == [
        "2 taken for 1   4", "1 taken for 0   2", "0 taken for 1   1", "",
    ]  # fmt: skip
    assert "ahead of here" in _shown("confusion", alone(run, row=1, screen=4))[0]
    assert "ahead" not in lines[0]


def test_a_confusion_matrix_in_a_narrow_pane() -> None:
    """Percentages give way to the counts; without an evaluation the pane says how to record one."""
    epoch = Epoch(1, 5, 5, 1.0, 1.5, 0.6, 0.5, confusion=tuple((3,) * 10 for _ in range(10)))
    run = make_run(loss=np.ones(10), epochs=(epoch,))
    lines = _shown("confusion", alone(run, row=8, screen=4), 16, 36)
    assert lines[4].split() == ["0", *["3"] * 10]
    assert "no evaluation yet" in _shown("confusion", alone(make_run(loss=np.ones(3)), screen=4))[0]
    assert "recorder.log_epoch" in _shown("confusion", alone(make_run(loss=np.ones(3)), screen=4))[1]


def test_every_stat_of_a_layer_has_its_lane_and_limit() -> None:
    """Each that was recorded, with its value at the playhead; those over a limit say so; others are named."""
    run = make_run(
        outputs={"fc": [1.0, 2.0, 3.0]}, grads={"fc.weight": [4.0, 5.0, np.nan]},
        stats={
            (Kind.OUTPUT, "fc", "dead_fraction"): np.array([0.1, 0.95, 0.2]),
            (Kind.UPDATE, "fc.weight", "ratio"): np.array([0.5, 0.001, 0.5]),
        },
        loss=[1.0, 1.0, 1.0],
    )  # fmt: skip
    at = {
        row: "\n".join(_shown("layer", alone(run, row=row, module="fc", screen=3), 30, 100))
        for row in range(3)
    }
    assert "output norm 2" in at[1]
    assert "grad norm 5" in at[1]
    assert "grad norm nan" in at[2]
    assert "dead fraction 0.95  ▲ over limit 0.9" in at[1]
    assert "dead fraction 0.1  limit 0.9" in at[0]
    assert "update ratio 0.5  ▲ over limit 0.01" in at[0]
    assert "update ratio 0.001  limit 0.01" in at[1]
    missing = at[1].split("not recorded for this layer: ")[1]
    assert missing.split("\n")[0].strip() == "weight norm, output max, output grad norm, input norm"


@pytest.mark.parametrize(
    ("dtype", "limit"), [("float16", "6.55e+04"), ("bfloat16", "3.39e+38"), ("int8", "")]
)
def test_the_largest_number_of_a_dtype_is_a_limit(dtype: str, limit: str) -> None:
    """That of the place's own dtype; of what is no float there is none."""
    site = Site("fc", Kind.OUTPUT, dtype=dtype)
    value, what = largest(STATS["output max"], site)
    assert (f"{value:.3g}" if value else "") == limit
    assert what == (f" ({dtype})" if limit else "")
    assert largest(STATS["output norm"], site) == (None, "")


def test_raw_numbers_are_exact_and_changes_are_bright() -> None:
    """What is shown leads back to the very float; bold is what differs from the step before, or is bad."""
    values = np.array([0.1, 0.1, 1 / 3, np.nan, np.inf, -np.inf], np.float32)
    run = make_run(loss=values)
    cells = DRAWN["raw"](alone(run, row=2, screen=6), 20, 120)
    line = next(i for i, text in enumerate(cells.lines()) if text.split()[:1] == ["loss"])
    shown = cells.lines()[line].split()[1:]
    assert shown[3:] == ["NaN", "Inf", "-Inf"]
    assert [np.float32(text) for text in shown[:3]] == values[:3].tolist()
    ends = [17 + 15 * i + 13 for i in range(6)]
    assert cells.bold[line, ends].tolist() == [False, False, True, True, True, True]
    assert "step k: forward and backward of step k" in cells.lines()[0]


def test_the_strip_of_classes_is_a_plain_share() -> None:
    """A digit per column is the tenths of a class among the predictions there; argmax of NaN is marked."""
    shown = scene(row=100, screen=4, digits=True, start=0, stop=6_000)
    run = shown.case.run
    lines = _shown("strip", shown, 13, 66)
    names = class_names(run)
    counts = np.array([run.scalar(name, 0, 6_000).astype(float) for name in names])
    assert len(names) == 10
    for number in range(10):
        digits = lines[1 + number][5:65]
        for column in range(2, 60):
            part = counts[:, column * 100 : (column + 1) * 100].sum(1)
            share = part[number] / part.sum()
            assert int(digits[column].replace("·", "0")) == pytest.approx(10 * share, abs=0.51)


def test_the_argmax_of_nan_is_no_share() -> None:
    """Where predictions are the argmax of NaN the strip marks them, and the bars count them."""
    nans = np.arange(60) >= 30
    scalars = {"predicted_0": np.ones(60), "predicted_1": np.where(nans, 0, 3), "predicted_nan": nans * 1.0}
    run = make_run(loss=np.ones(60), scalars=scalars)
    shown = alone(run, row=49, screen=4, digits=True)
    lines = _shown("strip", shown, 6, 66)
    assert lines[2][5:35] == "8" * 30
    assert lines[2][35:65] == "\N{MULTIPLICATION SIGN}" * 30
    assert "20 of them: argmax of NaN" in _shown("classes", shown)[-1]


SCREENS = (*((screen, 120, 36) for screen in range(1, 7)), (1, 80, 24))


@pytest.mark.parametrize(("screen", "width", "height"), SCREENS)
def test_a_picture_is_the_same_five_times(screen: int, width: int, height: int) -> None:
    """Letters and colours of a screen follow from the runs and the place alone, on a new desk each time."""
    pictures = []
    for _ in range(5):
        cases = tuple(Case(case.path, case.run, case.diagnosis) for case in map(told, BATCHES))
        drawn = whole(of(Desk(cases, ((),) * 3), 2, BIRTH, screen=screen), height, width).cells
        pictures.append([getattr(drawn, look).tolist() for look in ("glyphs", "fore", "back", "bold")])
    assert all(picture == pictures[0] for picture in pictures)
    assert len({colour for row in pictures[0][1] for colour in row}) > 4
    assert BAD_BACK in {colour for row in pictures[0][2] for colour in row}


def test_loss_and_heat_of_a_case_have_one_axis() -> None:
    """Side by side, too: the first bad column of the loss is that of the layers, give or take one."""
    lines = _shown("compare", scene(row=100, screen=2, digits=True), 30, 120)
    bad = "\N{MULTIPLICATION SIGN}"
    mine = [line[80:120] for line in lines[:-2] if bad in line[80:120] and "loss" not in line]
    starts = [line.index(bad) for line in mine]
    assert len(starts) > 4
    assert max(starts) - min(starts) <= 1
