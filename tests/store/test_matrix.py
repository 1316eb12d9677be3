"""The crash matrix in its short form: a few trials of every row; no promise is broken in any of them."""

import pytest

from tests.store.killing import Nursery
from tests.store.matrix import ROWS, SHAPES, Row, trials

TIMES = {"kills": 3, "cuts": 12}


@pytest.mark.parametrize(("sites", "mode"), SHAPES)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name.replace(" ", "-"))
def test_promises(nursery: Nursery, row: Row, sites: int, mode: str) -> None:
    """Every file opens with plain h5py and with the reader; no wrong row; nothing lost that must not be."""
    outcomes = list(trials(nursery, row, sites, mode, TIMES[row.of]))
    assert [complaint for outcome in outcomes for complaint in outcome.complaints] == []
    assert len(outcomes) == TIMES[row.of]
    assert all(outcome.plain and outcome.opened for outcome in outcomes if outcome.exists)
    assert sum(outcome.wrong for outcome in outcomes) == 0
