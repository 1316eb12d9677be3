"""No move leaves the run; jumps land so that one sees what came before; jumps can be undone."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from nanscope.replay.place import CLOSE, LANDING, History, Place

Move = Callable[[Place], Place]
ROW = st.integers(-100, 10_100)
MOVES: st.SearchStrategy[Move] = st.one_of(
    ROW.map(lambda row: lambda place: place.at(row)),
    ROW.map(lambda row: lambda place: place.land(row)),
    ROW.map(lambda row: lambda place: place.around(row)),
    st.floats(0.1, 10).map(lambda factor: lambda place: place.zoom(factor)),
    st.floats(-3, 3).map(lambda share: lambda place: place.pan(share)),
    st.just(lambda place: place.fit()),
)


@given(rows=st.integers(1, 10_000), moves=st.lists(MOVES, max_size=20))
def test_no_sequence_of_moves_leaves_the_run(rows: int, moves: list[Move]) -> None:
    """The playhead stays in the window, and the window in the run."""
    place = Place(rows=rows, stop=rows)
    for move in moves:
        place = move(place)
        assert 0 <= place.start <= place.row < place.stop <= rows


@given(row=st.integers(0, 9_999))
def test_a_jump_within_the_window_keeps_it(row: int) -> None:
    """A jump out of it puts the target where what came before is seen, but for the ends of the run."""
    place = Place(rows=10_000, start=4_000, stop=5_000, row=4_500).land(row)
    assert (place.row, place.width) == (row, 1_000)
    if 4_000 <= row < 5_000:
        assert place.start == 4_000
    elif 700 <= row <= 9_700:
        assert row - place.start == int(LANDING * 1_000)


def test_close_to_a_row() -> None:
    """`!` twice: 200 rows around the first bad one."""
    place = Place(rows=60_000, stop=60_000).around(42_017)
    assert (place.row, place.width) == (42_017, CLOSE)
    assert place.start <= 42_017 < place.stop


@given(row=st.integers(0, 999), start=st.integers(0, 800))
def test_within_moves_the_playhead_no_further_than_it_must(row: int, start: int) -> None:
    """The nearest row of the window."""
    place = Place(rows=1_000, row=row, start=start, stop=start + 100).within()
    nearest = min(range(start, start + 100), key=lambda each: abs(each - row))
    assert place.row == nearest


def test_jumps_are_undone_and_redone() -> None:
    """A new jump forgets what was undone."""
    history, first, second, third = History(), Place(row=1), Place(row=2), Place(row=3)
    assert history.undo(first) is None
    history.jump(first)
    history.jump(second)
    assert history.undo(third) == second
    assert history.undo(second) == first
    assert history.redo(first) == second
    history.jump(second)
    assert history.redo(third) is None
