"""Whole screens as cells: every size, every screen, every way of drawing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len

from nanscope.raster.palette import Graph
from nanscope.tui import frame
from tests.builders import make_run
from tests.replay.story import BIRTH, INFINITE
from tests.tui.scenes import alone, plain, scene, text, whole

SIZES = ((200, 50), (120, 36), (100, 30), (80, 24), (60, 18), (40, 8), (20, 5), (2, 1))
HOSTILE = ("\x1b]2;owned\x07", "[/red]", "</script>", "a" * 300, "层1", "שלום", "e\u0301")


@pytest.mark.parametrize("screen", range(7))
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_every_size_is_filled_exactly(screen: int, width: int, height: int) -> None:
    """No pane fails, no line is longer than the screen, and where it is wide enough the step is told."""
    lines = text(scene(row=BIRTH, screen=screen), height, width)
    assert len(lines) == height
    assert max(cell_len(line) for line in lines) <= width
    if width >= 20:
        assert str(BIRTH) in plain(lines)


@pytest.mark.parametrize(("width", "height"), [(200, 50), (120, 36), (80, 24)])
def test_the_verdict_answers_before_any_key(width: int, height: int) -> None:
    """Layer, step and an advice stand in one line, at every usual size."""
    verdict = plain(text(scene(), height, width)[-2:-1])
    assert "fc2" in verdict
    assert str(BIRTH) in verdict
    assert "learning rate" in verdict


@pytest.mark.parametrize("screen", range(7))
@pytest.mark.parametrize(("width", "height"), [(120, 36), (80, 24), (40, 8)])
def test_ascii_is_ascii(screen: int, width: int, height: int) -> None:
    """Where only ASCII can be shown there is nothing else, and NaN is an X."""
    shown = scene(row=BIRTH, screen=screen, graph=Graph.ASCII)
    written = "\n".join(text(shown, height, width))
    assert written.isascii()
    if screen in (1, 3):
        assert "XXXX" in written


def test_without_colours_everything_is_still_told() -> None:
    """Severity, case names and the non-finite stretch are words and shapes."""
    written = "\n".join(text(scene(row=BIRTH, colours=False)))
    for word in ("DIVERGED", "ERR", "WARN", "bs=1024", "bs=32", "bs=1", "\N{MULTIPLICATION SIGN}" * 9):
        assert word in written


@pytest.mark.parametrize("module", HOSTILE)
@pytest.mark.parametrize("screen", range(7))
def test_names_are_data(module: str, screen: int) -> None:
    """A name may hold anything: widths stay right, and no control character reaches the cells."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in module)
    run = make_run(
        outputs={shown: [1.0, 2.0, np.nan]}, grads={f"{shown}.weight": [1.0, 2.0, 3.0]},
        loss=[1.0, 2.0, np.nan], name=f"{shown[:40]}.h5",
    )  # fmt: skip
    lines = text(alone(run, screen=screen, module=shown), 24, 80)
    assert max(cell_len(line) for line in lines) <= 80
    assert all(line.isprintable() for line in lines)


def test_a_pane_that_fails_says_so_and_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line with the error and the key that copies it; the heat map is there all the same."""

    def fail(*_: Any) -> Any:
        raise ValueError("bad [bold]luck[/bold]")

    monkeypatch.setattr(frame, "DRAWN", {**frame.DRAWN, "loss": fail})
    drawn = frame.draw(scene(row=BIRTH), 36, 120)
    written = "\n".join(drawn.cells.lines())
    assert "bad [bold]luck[/bold]" in written
    assert "Y copies details" in written
    assert "fc2" in written
    assert len(drawn.errors) == 1


def test_nan_and_infinity_are_told_apart() -> None:
    """The focus and the raw numbers name each of them."""
    focus = "\n".join(text(scene(row=INFINITE)))
    assert "nan" in focus
    assert "inf" in focus
    numbers = text(scene(row=INFINITE, screen=6), 50, 120)
    logits = next(line for line in numbers if "logits_abs_max" in line)
    assert logits.split()[1:] == ["NaN", "NaN", "NaN", "Inf", "NaN", "NaN"]


def test_other_cases_stand_at_the_last_step_before_the_same_sample() -> None:
    """At the first NaN the other cases show what a search through their samples gives."""
    shown = scene(row=BIRTH)
    seen = BIRTH + 1
    for number, batch in enumerate((1024, 32)):
        expected = int(np.searchsorted(np.arange(1, 3_000) * batch, seen, "right")) - 1
        assert shown.on(number).place.row == expected
    assert "step 1312" in plain(text(replace(shown, place=replace(shown.place, screen=2))))


@pytest.mark.parametrize("screen", range(7))
@pytest.mark.parametrize("rows", [0, 1, 2])
def test_very_short_runs(screen: int, rows: int) -> None:
    """No step, one step: every screen is drawn and says what is the matter."""
    run = make_run(outputs={"fc1": np.ones(rows)}, loss=np.ones(rows))
    written = "\n".join(text(alone(run, screen=screen), 24, 80))
    assert "no step" in written if rows == 0 else "HEALTHY" in written


def test_a_healthy_run_says_so() -> None:
    """The verdict of a run without findings names how many steps were looked at."""
    verdict = plain(text(scene(batches=(32,)))[-2:-1])
    assert "no non-finite value in 1900 steps" in verdict
    assert "no rule fired" in verdict


def test_one_case_is_told_how_to_get_others() -> None:
    """Compare with one case names the command."""
    assert "nanscope replay digits-bs1.h5 " in "\n".join(text(scene(batches=(1,), screen=2)))


def test_what_was_not_recorded_is_named() -> None:
    """A run of a loss alone: each screen says what it lacks, and how to record it."""
    run = make_run(loss=[1.0, 0.5, 0.2], name="mine.h5")
    expected = {1: "was not recorded", 3: "not recorded", 4: "were not recorded"}
    for screen, words in expected.items():
        assert words in "\n".join(text(alone(run, screen=screen)))


def test_nothing_is_drawn_twice_as_slow() -> None:
    """A second picture of the same scene is the same: panes keep no state of their own."""
    shown = scene(row=BIRTH)
    assert whole(shown).cells.lines() == whole(shown).cells.lines()
