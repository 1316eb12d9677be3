"""What a person does, one action after the other, on the story's cases; no terminal."""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path

import numpy as np
import pytest

from nanscope.replay import link, marks
from nanscope.replay.axis import Unit
from nanscope.replay.cases import open_case
from nanscope.run import is_nonfinite
from nanscope.tui.panes.loss import margin
from nanscope.tui.panes.words import at_event
from nanscope.tui.session import Options, Session
from tests.replay.story import BIRTH, ROWS, SPIKE, tell
from tests.tui.scenes import BATCHES, told

LAST = ROWS[1] - 1


@pytest.fixture
def session() -> Session:
    """The three cases, batch size 1 in focus, the playhead at the first step."""
    made = Session([told(batch) for batch in BATCHES], Options(), focus=2)
    made.act("first_step")
    return made


def go(session: Session, text: str) -> str:
    """Answer the prompt of `g`."""
    session.answer("goto", text)
    return session.message


def test_it_opens_at_the_first_non_finite_value() -> None:
    """Nobody has to press a key to stand there, with the layer in focus."""
    session = Session([told(1)], Options())
    assert (session.place.row, session.place.module) == (BIRTH, "fc2")
    assert (session.place.start, session.place.stop) == (0, ROWS[1])


def test_the_first_bad_value_and_back(session: Session) -> None:
    """`!` goes there, again is a close-up, `u` takes both back and `U` does them again."""
    before = session.place
    session.act("first_bad")
    there = session.place
    assert (there.row, there.module) == (BIRTH, "fc2")
    session.act("first_bad")
    close = session.place
    assert close.stop - close.start == 200
    assert close.start <= BIRTH < close.stop
    session.act("undo")
    assert session.place == there
    session.act("undo")
    assert session.place == before
    session.act("redo")
    session.act("redo")
    assert session.place == close


def test_steps_and_ends(session: Session) -> None:
    """Three steps on and one back are two; the ends are ends."""
    go(session, "1000")
    for name in ("next_step", "next_step", "next_step", "previous_step"):
        session.act(name)
    assert session.place.row == 1_002
    session.act("last_step")
    session.act("next_step")
    session.act("next_page")
    assert session.place.row == LAST
    session.act("first_step")
    session.act("previous_step")
    session.act("previous_page")
    session.act("previous_column")
    assert session.place.row == 0


@pytest.mark.parametrize(("height", "width"), [(36, 120), (24, 80), (50, 200)])
def test_a_column_is_one_column_of_the_screen(session: Session, height: int, width: int) -> None:
    """`L` moves the playhead of the loss by exactly one cell, at every size and zoom."""
    for zooms in range(4):
        go(session, "20000")
        for _ in range(zooms):
            session.act("zoom_in")
        seen = [_playhead(session, height, width)]
        for _ in range(6):
            session.act("next_column")
            seen.append(_playhead(session, height, width))
        assert np.diff(seen).tolist() == [1] * 6
        session.act("previous_column")
        assert _playhead(session, height, width) == seen[-2]


def _playhead(session: Session, height: int, width: int) -> int:
    frame = session.frame(height, width)
    rect = next(rect for rect in frame.rects if rect.pane == "loss")
    room = rect.width - margin(session.scene, rect.width) - 1
    look = session.scene.look(room)
    assert look.playhead is not None
    return look.playhead


def test_events_in_order_and_no_wrap(session: Session) -> None:
    """`n` visits every event once, `N` the same way back; beyond the ends a message is all there is."""
    expected = [stop.row for stop in session.scene.stops]
    forward = []
    for _ in range(len(expected)):
        session.act("next_event")
        forward.append(session.place.row)
    assert forward == expected
    session.act("next_event")
    assert session.place.row == expected[-1]
    assert "no event after" in session.message
    session.act("last_step")
    backward = []
    for _ in range(len(expected)):
        session.act("previous_event")
        backward.append(session.place.row)
    assert backward == expected[::-1]
    session.act("previous_event")
    assert "no event before" in session.message


def test_why_stands_at_the_event_under_the_playhead(session: Session) -> None:
    """It opens there, `n` and steps take the choice along; `k` chooses another, which enter goes to."""
    stops = session.scene.stops
    born = next(i for i, stop in enumerate(stops) if stop.row == BIRTH)
    session.act("first_bad")
    session.act("screen_5")
    assert at_event(session.scene) == born
    session.act("previous_event")
    assert at_event(session.scene) == born - 1
    session.act("down")
    assert (at_event(session.scene), session.place.row) == (born, stops[born - 1].row)
    session.act("pick")
    assert (at_event(session.scene), session.place.row) == (born, BIRTH)
    for _ in stops:
        session.act("up")
    assert at_event(session.scene) == 0
    session.act("pick")
    assert session.place.row == stops[0].row
    session.act("first_step")
    session.act("up")
    assert at_event(session.scene) == 0


def test_enter_on_a_layer_opens_it(session: Session) -> None:
    """In the heat map of Overview the chosen layer is shown on Layers; time and window stay."""
    before = session.place
    session.act("down")
    session.act("pick")
    assert session.place.screen == 3
    assert session.place.module != before.module
    assert (session.place.row, session.place.start, session.place.stop) == (0, before.start, before.stop)


@pytest.mark.parametrize(
    ("text", "site", "stat", "limit"),
    [
        ("grad fc2 > 1e3", "fc2.weight", "l2", 1e3),
        ("loss > 10", None, "loss", 10.0),
        ("out fc1 > 5e3", "fc1", "l2", 5e3),
    ],
)
def test_run_to_a_condition(session: Session, text: str, site: str | None, stat: str, limit: float) -> None:
    """`c` stops at the first row that a plain search finds, `C` from the end at the last."""
    run = session.scene.case.run
    kinds = {"fc2.weight": "grad", "fc1": "output"}
    found = next((s for s in run.sites if s.name == site and s.kind == kinds[site]), None) if site else None
    with np.errstate(invalid="ignore"):
        rows = np.flatnonzero(run.source.column(run.index(found, stat), 0, len(run)) > limit)
    session.answer("condition", text)
    session.act("run_forward")
    assert session.place.row == rows[0]
    assert text in session.message
    session.act("last_step")
    session.act("run_backward")
    assert session.place.row == rows[-1]


def test_run_to_any_nan(session: Session) -> None:
    """`nan any` stops where a search through every norm does; before it nothing holds."""
    run = session.scene.case.run
    columns = [c for c in run.header.columns if c.stat in ("l2", "loss")]
    bad = [is_nonfinite(run.source.column(run.index(c.site, c.stat), 0, len(run))) for c in columns]
    first = int(np.flatnonzero(np.any(bad, axis=0))[0])
    session.answer("condition", "nan any")
    session.act("run_forward")
    assert session.place.row == first == BIRTH
    session.act("run_backward")
    assert session.place.row == BIRTH
    assert "holds at no step before" in session.message


def test_a_condition_that_is_none_is_refused(session: Session) -> None:
    """Nonsense, unknown stats and layers, and `c` without a condition give words and change nothing."""
    before = session.place
    for text in ("abc", "grad fc9 > 1", "weird fc1 > 1", "loss > x", "nan fc9"):
        session.answer("condition", text)
        assert session.message
        assert session.condition == ""
    session.act("run_forward")
    assert "b sets one" in session.message
    assert session.place == before


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("1204", 1_204),
        ("50%", round(0.5 * LAST)),
        ("e3.5", 7_000),
        ("+1k", 6_000),
        ("-1k", 4_000),
        ("nan", BIRTH),
    ],
)
def test_go_to(session: Session, text: str, row: int) -> None:
    """Each form of a place, seen from step 5,000."""
    go(session, "5000")
    go(session, text)
    assert (session.place.row, session.message) == (row, "")


@pytest.mark.parametrize("text", ["abc", "", "%", "e", "+", "--1", "1e3x"])
def test_no_place(session: Session, text: str) -> None:
    """What is no place leaves one where one is, and says what would be one."""
    go(session, "5000")
    assert "is no place" in go(session, text)
    assert session.place.row == 5_000


def test_where_it_leaves_the_baseline(session: Session) -> None:
    """`D` lands within the stretch in which the loss grows, and not before it."""
    session.act("divergence")
    run = session.scene.case.run
    loss = run.scalar("loss").astype(float)
    grown = int(np.flatnonzero(loss > 100 * np.median(loss[:BIRTH]))[0])
    stretch = ROWS[1] / 256
    assert grown - 2 * stretch <= session.place.row <= grown + stretch


def test_the_baseline_leaves_nothing(session: Session) -> None:
    """`D` on the baseline, or with one case, is answered in words."""
    session.act("next_case")
    assert session.place.case == 0
    session.act("divergence")
    assert "baseline" in session.message
    single = Session([told(1)], Options())
    single.act("divergence")
    assert "nanscope replay" in single.message


def test_the_unit_changes_words_and_not_the_focus(session: Session) -> None:
    """`e` goes through samples, steps, epochs and time; row and window stay."""
    go(session, "5000")
    before, seen = session.place, []
    for _ in Unit:
        seen.append(session.place.unit)
        session.act("unit")
    assert set(seen) == set(Unit)
    assert session.place == before


def test_another_case_stands_at_the_same_sample(session: Session) -> None:
    """`[` shows the other case at the last step before the same sample; nearly back by `]`."""
    go(session, "5000")
    session.act("previous_case")
    assert session.place.case == 1
    assert session.place.row == 5_001 // 32 - 1
    session.act("next_case")
    assert 0 <= 5_000 - session.place.row < 32


def test_a_jump_lands_at_seventy_per_cent(session: Session) -> None:
    """A target outside the window moves it so that what came before is in sight; inside it stays."""
    go(session, "1000")
    for _ in range(6):
        session.act("zoom_in")
    width = session.place.width
    session.act("first_bad")
    assert session.place.width == width
    assert (BIRTH - session.place.start) / width == pytest.approx(0.7, abs=0.01)
    window = session.place.start, session.place.stop
    session.act("previous_event")
    assert window == (session.place.start, session.place.stop)


def test_playing_stops_at_events_and_says_why(session: Session) -> None:
    """The wall clock moves the playhead; a long pause counts a tenth of a second; an event stops it."""
    session.act("play")
    session.tick(60.0)
    assert session.place.row == pytest.approx(ROWS[1] / 20 * 0.1, abs=2)
    first = session.scene.stops[0]
    for _ in range(2_000):
        session.tick(0.1)
    assert session.place.row == first.row
    assert session.speed == 0
    assert first.what in session.message


def test_playing_stops_at_the_condition(session: Session) -> None:
    """The condition of `b` stops playing, too."""
    session.answer("condition", "out fc1 > 5e3")
    session.act("play")
    for _ in range(2_000):
        session.tick(0.1)
    assert session.place.row == SPIKE
    assert session.speed == 0
    assert "out fc1 > 5e3" in session.message


def test_playing_ends_at_the_end() -> None:
    """A healthy run is played to its last step; played again it begins anew."""
    session = Session([told(32)], Options())
    session.act("first_step")
    session.act("play")
    for _ in range(300):
        session.tick(0.1)
    assert (session.place.row, session.speed) == (ROWS[32] - 1, 0)
    session.act("play")
    assert session.place.row == 0


def test_speed_has_limits(session: Session) -> None:
    """From an eighth to sixty-four."""
    session.act("play")
    for _ in range(12):
        session.act("faster")
    assert session.speed == 64
    for _ in range(20):
        session.act("slower")
    assert session.speed == 0.125


def test_marks_and_the_copied_command(tmp_path: Path) -> None:
    """Marks stay beside the run, which is never written; the copied command opens the same place."""
    paths = tell(tmp_path, (1024, 1))
    before = hashlib.sha256(paths[1].read_bytes()).digest()
    session = Session([open_case(paths[1])], Options())
    session.open_siblings()
    go(session, "12000")
    session.act("zoom_in")
    session.answer("mark", "it begins here")
    go(session, "3000")
    session.answer("marks", "it begins here")
    assert session.place.row == 12_000
    assert marks.read(paths[1]) == (marks.Mark(12_000, "it begins here"),)
    session.act("screen_3")
    effect = session.act("copy")
    assert effect is not None
    words = shlex.split(effect.text.splitlines()[0])
    options = dict(zip(words[words.index("--case") :: 2], words[words.index("--case") + 1 :: 2], strict=True))
    again = Session(
        [open_case(Path(word)) for word in words if word.endswith(".h5")],
        Options(),
        int(options["--case"]) - 1,
    )
    asked = link.Link(
        int(options["--at"]), options.get("--layer"), options["--window"], int(options["--screen"])
    )
    opened = link.opened(again.place, again.scene.case, asked)
    place = session.place
    for field in ("case", "row", "start", "stop", "module", "screen"):
        assert getattr(opened, field) == getattr(place, field)
    assert hashlib.sha256(paths[1].read_bytes()).digest() == before


def test_a_replaced_file_is_said_and_the_screen_stays(tmp_path: Path) -> None:
    """`R` on a file that is no run any more leaves the picture and names the key."""
    path = tell(tmp_path, (1024,))[1024]
    session = Session([open_case(path)], Options())
    path.write_bytes(b"not a run")
    session.act("reopen")
    assert "file changed on disk" in session.message
    assert session.scene.case.rows == ROWS[1024]
