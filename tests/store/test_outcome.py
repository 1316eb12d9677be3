"""The crash matrix can fail: each way in which a run may be wrong is a complaint."""

from dataclasses import replace

import numpy as np
import pytest

from nanscope.run import MISSING, Column, Header, Run
from tests.builders import ArraySource
from tests.store.child import EVENTS, FIRST
from tests.store.files import pattern
from tests.store.outcome import Expected, compare

ROWS, COLUMNS = 100, 3
EXPECTED = Expected(np.arange(ROWS), ROWS, events=2)


def recorded(**wrong: int) -> Run:
    """A killed run that is as it should be, but for a value, a step or a time of one row."""
    table, steps, times = pattern(0, ROWS, COLUMNS), 3 * np.arange(ROWS), np.arange(ROWS) / 8
    for what, row in wrong.items():
        if what == "value":
            table[row, 1] = np.nextafter(table[row, 1], np.float32(np.inf))
        elif what == "hollow":
            table[row] = MISSING
        elif what == "amended":
            table[row] = pattern(row + FIRST, row + FIRST + 1, COLUMNS)[0]
        else:
            (steps if what == "step" else times)[row] += 1
    source = ArraySource(list(table.T.copy()), steps, times)
    header = Header(tuple(Column(None, f"s{i}") for i in range(COLUMNS)))
    events = tuple({"kind": "note", "step": i, "text": f"event {i * EVENTS}"} for i in range(3))
    return Run("run.h5", header, source, state="killed", events=events)


def test_a_sound_run() -> None:
    """Nothing to complain of."""
    outcome = compare(recorded(), EXPECTED)
    assert (outcome.complaints, outcome.wrong, outcome.missing) == ((), 0, 0)
    assert outcome.found == ROWS


@pytest.mark.parametrize("what", ["value", "step", "time", "hollow", "amended"])
@pytest.mark.parametrize("row", [0, 41, ROWS - 1])
def test_one_wrong_row(what: str, row: int) -> None:
    """One bit of a value, a step, a time, a row without values, a row of another time."""
    outcome = compare(recorded(**{what: row}), EXPECTED)
    assert outcome.wrong == 1
    assert any("1 wrong rows" in complaint for complaint in outcome.complaints)


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"due": np.arange(ROWS + 5), "last": ROWS + 5}, ""),
        ({"last": ROWS - 1}, "1 wrong rows"),
        ({"events": 4}, "3 events of 4"),
        ({"states": ("live",)}, "the state is killed"),
    ],
)
def test_other_wrongs(changed: dict[str, object], complaint: str) -> None:
    """Rows and events that had to be there, rows that nobody appended, another state."""
    outcome = compare(recorded(), replace(EXPECTED, **changed))
    assert complaint in str(outcome.complaints)
    assert outcome.missing == (5 if "due" in changed else 0)


def test_losses_and_events_nobody_sent() -> None:
    """A run that says it lost something where nothing may be lost; events out of order."""
    run = recorded()
    told = compare(replace(run, lost=("1 steps are missing",), events=run.events[::-1]), EXPECTED)
    assert "a loss is reported: ['1 steps are missing']" in told.complaints
    assert "events that nobody sent, or out of order" in told.complaints


def test_what_may_be() -> None:
    """Thinned rows, rows that lost their values in a power cut, the newest row before it was amended."""
    assert compare(recorded(hollow=5), replace(EXPECTED, thinned=True)).complaints == ()
    hollow = compare(recorded(hollow=5), replace(EXPECTED, hollow=True))
    assert (hollow.complaints, hollow.wrong, hollow.missing) == ((), 0, 1)
    assert compare(recorded(amended=ROWS - 1), replace(EXPECTED, amended=True)).complaints == ()
    assert compare(recorded(amended=ROWS - 2), replace(EXPECTED, amended=True)).wrong == 1
