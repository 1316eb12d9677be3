"""What is said of runs that are empty, still written, broken off, or bad from the begin; and of bad files."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanscope.run import Run
from nanscope.tui.session import Options, Session
from tests.builders import make_run
from tests.replay import story
from tests.tui.scenes import alone, case_of, plain, text


def verdict(run: Run, width: int = 120, **changes: Any) -> str:
    """The verdict's line."""
    return plain(text(alone(run, **changes), 36, width)[-2:-1])


def test_a_run_that_has_not_begun() -> None:
    """No step, and a writer at work: it is waited for."""
    run = make_run(loss=np.ones(0), state="live")
    header = replace(run.header, created=time.time() - 3665, environment={"pid": 4711})
    assert "waiting for the first step (writer pid 4711 opened 1 h 1 min ago)" in verdict(
        replace(run, header=header)
    )


def test_a_run_without_steps() -> None:
    """No step, and nobody writes: how to record some."""
    assert "this run holds no steps" in verdict(make_run(loss=np.ones(0)))
    assert "nanscope.record(model" in verdict(make_run(loss=np.ones(0)))


@pytest.mark.parametrize("width", [120, 80])
def test_bad_from_the_first_step(width: int) -> None:
    """The input is to be looked at, and how many NaN came in is said."""
    run = make_run(inputs=[np.nan] * 3, outputs={"fc1": [np.nan] * 3}, loss=[np.nan] * 3)
    told = verdict(run, width)
    assert "not finite from the first step" in told
    assert "check the input (nan in batch: 1)" in told


def test_one_step() -> None:
    """Play and zoom are dim, and say why; help and quit are not."""
    session = Session([case_of(make_run(loss=[1.0], outputs={"fc1": [1.0]}))], Options())
    session.act("play")
    assert "one step cannot be played" in session.message
    assert session.speed == 0


def test_no_finding() -> None:
    """`!` says what was looked at."""
    session = Session([case_of(story.case(32))], Options())
    session.act("first_bad")
    assert "no non-finite value in 1900 steps" in session.message.replace(",", "")


@pytest.mark.parametrize("state", ["killed", "failed", "interrupted"])
def test_how_it_ended_is_in_the_header(state: str) -> None:
    """A run that did not simply finish says so on every screen, and why on the screen Why."""
    session = Session([case_of(make_run(loss=[1.0, 2.0], state=state))], Options())
    lines = session.frame(36, 120).cells.lines()
    assert f"ENDED {state}" in lines[0]
    assert lines[-2].lstrip(" ^▲").startswith(f"{state.upper()}  healthy until it")
    assert "HEALTHY" not in "".join(lines)


def test_what_was_lost_is_told() -> None:
    """The screen Why names what the file lacks."""
    run = make_run(loss=[1.0, 2.0, 1.0], lost=("the last 812 steps are unreadable",))
    session = Session([case_of(run)], Options())
    session.act("screen_5")
    assert "812 steps are unreadable" in "\n".join(session.frame(36, 120).cells.lines())


def test_a_live_run_that_is_held() -> None:
    """Followed it stands at its last step; a step back holds it and counts what is newer; End follows."""
    run = make_run(loss=np.ones(50), state="live")
    case = case_of(run)
    session = Session([case], Options())
    assert session.follows
    assert session.place.row == 49
    session.act("previous_step")
    session.act("previous_step")
    assert not session.follows
    assert "HELD 2 newer: End" in session.frame(36, 120).cells.lines()[0]
    session.act("last_step")
    assert session.follows
    footer = session.frame(36, 120).cells.lines()[-1]
    assert "f Follow" in footer


def test_follow_is_for_live_runs() -> None:
    """`f` on a run that is over says so, and the footer does not offer it."""
    session = Session([case_of(story.case(32))], Options())
    session.act("follow")
    assert "over" in session.message
    assert "Follow" not in session.frame(36, 120).cells.lines()[-1]


@pytest.mark.parametrize("content", [None, b"", b"not a run file", b"\x89HDF\r\n\x1a\n" + bytes(2_000)])
def test_files_that_are_none(tmp_path: Path, content: bytes | None) -> None:
    """Missing, empty, text, damaged: one line on stderr before any screen, exit code 3, no traceback."""
    path = tmp_path / "run.h5"
    if content is not None:
        path.write_bytes(content)
    done = _replay("run.h5", folder=tmp_path)
    assert done.returncode == 3
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "run.h5" in done.stderr


def test_mistakes_in_the_command(tmp_path: Path) -> None:
    """A folder without runs, and no run at all: one line with what to type, exit code 2."""
    for words in ((str(tmp_path),), ()):
        done = _replay(*words, folder=tmp_path)
        assert done.returncode == 2
        assert "nanscope train --batch-size 1" in done.stderr


def test_an_empty_run_is_no_failure(tmp_path: Path) -> None:
    """`--once` of a run without steps says so and leaves with 0."""
    story.write(tmp_path / "run.h5", make_run(loss=np.ones(0)))
    done = _replay("run.h5", "--once", folder=tmp_path)
    assert done.returncode == 0
    assert "no steps" in done.stdout


def _replay(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nanscope", "replay", *words],
        cwd=folder, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
