"""The answer as text: its order, its width, its manners."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.cells import cell_len

from nanscope.facts import STATES
from nanscope.reporters import REPORTERS
from nanscope.run import Run
from nanscope.standing import SO_FAR
from nanscope.values import Diagnosis, Element, Link, Location, Operand, Phase, Result, Site
from nanscope.view import build_view
from tests.reporters.stories import (
    FINAL,
    HOSTILE,
    AsciiStream,
    Terminal,
    collapsed_pair,
    diverged_pair,
    healthy_pair,
)

HEALTHY = """\
● HEALTHY  no non-finite value in 1,350 steps, no rule fired

Loss  2.32 at the start, 0.184 at the end (means of up to 100 steps)
Test  loss 0.150, accuracy 0.967, macro F1 0.966 (epoch 30, 1,350 steps)
Run   runs/digits-bs32.h5
      digits, batch size 32, sgd, lr 0.1, seed 0, 1,350 steps

nanscope replay runs/digits-bs32.h5
"""
# Ten-fold a step from step 1627 on, so a digit for every three steps; the dots and the cross as drawn.
MARKS = "·····11122233344455566677788899\N{MULTIPLICATION SIGN}"
DIVERGED = """\
✖ DIVERGED  at step 1653 (epoch 2), forward, final_layer.output

final_layer overflowed at step 1653 and the update wrote NaN into every
parameter; argmax of an all-NaN row is index 0, so class 0 is no preference of
the model

Where and when
  1626            final_layer.output: grows 10 x per step
▸ 1653  forward   final_layer.output: 8 of 10 logits are inf: the first
                  non-finite value
  1653  loss      the loss is nan
  1653  update    the update writes NaN into 6 of 6 parameters
  1654  forward   final_layer.output: all logits are NaN: argmax of an all-NaN
                  row is index 0, so class 0 is no preference of the model

What grew  a digit is 3 decades above usual; a column is a step, from 1622
  loss                      LOSSSTRIP  2 to 2.4e26
  final_layer.output        LOSSSTRIP  4 to 4.8e26

Why
  1  learning-rate-divergence
     the norm of final_layer.output grew 10 x per step for 27 steps before
     anything was NaN
     · log(0) did not occur: the logits were inf before the loss was formed

What to try  none of it has been tried on this run
  1  lower the learning rate: 0.01 is a first try (it was 0.1)
  2  clip the gradient norm to 1.0 before the update

Not known
  · the operation and its source line: not watched in this run

Loss  2 at the start, nan at the end (means of up to 100 steps)
Test  loss nan, accuracy 0.100, macro F1 0.018 (epoch 2, 1,854 steps)
Run   runs/digits-bs1.h5
      digits, batch size 1, sgd, lr 0.1, seed 0, 1,854 steps

nanscope replay runs/digits-bs1.h5
"""


def shown(pair: tuple[Run, Diagnosis], out: io.StringIO | None = None) -> str:
    """What the text reporter writes."""
    out = out or io.StringIO()
    REPORTERS["text"](build_view(*pair), out)
    return out.getvalue()


def test_healthy_run_is_a_few_calm_lines() -> None:
    """Nothing but the facts and the next command."""
    assert shown(healthy_pair()) == HEALTHY


@pytest.mark.parametrize("state", list(STATES))
def test_a_run_that_was_not_seen_to_its_end_says_that_first(state: str) -> None:
    """Its state stands where the verdict would; that it is healthy is told only so far."""
    first, second = shown(healthy_pair(state=state)).splitlines()[:2]
    assert first.split()[:3] == ["●" if state == "live" else "▲", state.upper(), "healthy"]
    assert f"{SO_FAR[state]}: no non-finite value in 1,350 steps" in " ".join(f"{first} {second}".split())


@pytest.mark.parametrize("state", list(STATES))
def test_trouble_is_told_before_how_it_ended(state: str) -> None:
    """A run that diverged did so, whatever ended it."""
    run, diagnosis = diverged_pair()
    assert shown((replace(run, state=state), diagnosis)).startswith("✖ DIVERGED  at step")


def test_diverged_run_tells_the_story_in_order() -> None:
    """What, where and when, why, what to try, what is not known, then the facts and the command."""
    assert shown(diverged_pair()) == DIVERGED.replace("LOSSSTRIP", MARKS)


def test_collapsed_run_shows_findings_outcomes_and_what_was_lost() -> None:
    """Findings without a trail are grouped by rule; a killed writer and missing steps are told."""
    text = shown(collapsed_pair())
    assert text.startswith("✖ COLLAPSED  since step 900, layer2_activation.output: dead layer collapse\n")
    assert text.count("NS303") == 1
    assert "(and 2 more like it)" in text
    assert text.index("✖ ERR") < text.index("▲ WARN")
    assert "lower the learning rate to 0.05 (prevented over 3,000 steps)" in text
    assert "warm the learning rate up (not-prevented over 3,000 steps)" in text
    assert "killed: its process is gone" in text
    assert "812 steps could not be written" in text
    assert text.endswith("nanscope replay runs/mnist-bs1.h5\n")


@pytest.mark.parametrize("pair", [diverged_pair(), collapsed_pair(), healthy_pair()])
def test_fits_in_80_columns_without_trailing_blanks(pair: tuple[Run, Diagnosis]) -> None:
    """Every line of every story."""
    for line in shown(pair).splitlines():
        assert cell_len(line) <= 80
        assert line == line.rstrip()


def test_colour_on_a_terminal_only() -> None:
    """A terminal gets colours; a pipe gets no escape sequence."""
    assert "\x1b[" in shown(diverged_pair(), Terminal())
    assert "\x1b" not in shown(diverged_pair())


def test_no_escape_in_a_pipe_even_when_colour_is_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    """FORCE_COLOR in a CI job must not put escapes into a log file."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b" not in shown(diverged_pair())


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    """With NO_COLOR a terminal gets no colour code; shapes and words carry the severity."""
    monkeypatch.setenv("NO_COLOR", "1")
    text = shown(diverged_pair(), Terminal())
    assert "38;" not in text
    assert "48;" not in text
    assert "✖ DIVERGED" in text


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_drawn_literally(name: str) -> None:
    """Markup stays text, control characters become `?`, long names are cut, wide ones are counted."""
    site = Site(name, FINAL.kind, "Linear", 2)
    run, diagnosis = diverged_pair()
    trail = (Link(7, f"the norm of {name} grows", Phase.FORWARD, site),)
    text = shown((run, replace(diagnosis, trail=trail)))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\u202e" not in text
    assert all(cell_len(line) <= 80 for line in text.splitlines())
    if name.isprintable() and len(name) < 40:
        assert f"the norm of {name} grows" in text


def test_long_names_keep_both_ends() -> None:
    """The beginning and the end of a name tell where it is."""
    run, diagnosis = diverged_pair()
    trail = (Link(7, f"first{'x' * 300}last grows", Phase.FORWARD),)
    text = shown((run, replace(diagnosis, trail=trail)))
    assert "firstx" in text
    assert "..x" in text
    assert "xlast grows" in text


def test_ascii_where_the_stream_is_not_utf8() -> None:
    """No character beyond ASCII, names included; severity is a shape and a word still."""
    run, diagnosis = diverged_pair("runs/层.h5")
    text = shown((run, diagnosis), AsciiStream())
    assert text.isascii()
    assert text.startswith("X DIVERGED")
    assert MARKS.replace("·", ".").replace("\N{MULTIPLICATION SIGN}", "x") in text
    assert r"\u5c42" in text


@pytest.mark.parametrize(("names", "plain"), [({"LC_ALL": "C"}, True), ({"LC_ALL": "", "LANG": "C"}, True)])
def test_ascii_in_the_c_locale(monkeypatch: pytest.MonkeyPatch, names: dict[str, str], plain: bool) -> None:
    """Python's own LC_CTYPE=C.UTF-8 does not make a C terminal show more."""
    monkeypatch.setenv("LC_CTYPE", "C.UTF-8")
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    assert shown(diverged_pair()).isascii() is plain


def test_operation_level_origin_is_shown() -> None:
    """Operation, line, operands, element and samples, where they are known."""
    run, diagnosis = diverged_pair()
    assert diagnosis.origin is not None
    origin = replace(
        diagnosis.origin,
        op="addmm",
        location=Location("model.py", 14, "forward"),
        operands=(Operand("input", (1, 1024), "float32", 1.4e26, 1e-3, 0, 0, 512),),
        result=Result((1, 10), "float32", 0, 5, 3),
        samples=(0,),
        element=Element((0, 3), (1.4e26, 1.5e27)),
    )
    text = shown((run, replace(diagnosis, origin=origin)))
    assert "addmm at model.py:14 in forward" in text
    assert "[1, 1024] float32, largest 1.4e26, 512 zero" in text
    assert "[1, 10] float32: 0 nan, 5 inf, 3 -inf" in text
    assert "[0, 3] from 1.4e26, 1.5e27" in text


def test_command_survives_a_shell() -> None:
    """A path with a blank is quoted, and the command is never wrapped."""
    name = f"runs/{'long ' * 30}.h5"
    assert shown(healthy_pair(name=name)).splitlines()[-1] == f"nanscope replay '{name}'"


def test_empty_run_says_so() -> None:
    """A run without a step is no error."""
    run, diagnosis = healthy_pair(rows=0, epochs=())
    assert "this run holds no steps" in shown((run, diagnosis))
