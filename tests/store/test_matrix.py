"""The crash matrix in its short form: a few trials of every row; no promise is broken in any of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from nanscope.store.live import Mode
from nanscope.store.reader import open_run
from tests.store.child import Plan
from tests.store.matrix import ROWS, TRAINED, Nurseries, Row, namespace, trials
from tests.store.recorded import LARGE, SMALL, recorded_header

TIMES = {"kills": 3, "cuts": 8, "times": 1}
PATIENCE = 5.0  # the promise of 0.25 s is kept by a machine that does nothing else, see the long form
ENDS = 6  # of a training, each of them once


def cases() -> Iterator[tuple[Row, int, Mode | None]]:
    """Kills and cuts with every shape; other mishaps with each size and mode, those of a training with few.

    The long form tries every row with every shape.
    """
    for number, row in enumerate(ROWS):
        for place, (sites, mode) in enumerate(row.shapes):
            chosen = sites == SMALL if row.program == TRAINED else place in ((0, 3), (1, 2))[number % 2]
            if row.of != "times" or chosen:
                yield row, sites, mode


CASES = list(cases())


@pytest.mark.parametrize(("row", "sites", "mode"), CASES, ids=[f"{r.name}-{s}-{m}" for r, s, m in CASES])
def test_promises(nurseries: Nurseries, row: Row, sites: int, mode: Mode | None) -> None:
    """Every file opens with plain h5py and with the reader; no wrong row; nothing lost that must not be."""
    if row.mounts and not namespace():
        pytest.skip("no right to mount a file system")
    times = ENDS if row.name.startswith("ends") else TIMES[row.of]
    outcomes = list(trials(nurseries, row, (sites, mode), times, patience=PATIENCE))
    assert [complaint for outcome in outcomes for complaint in outcome.complaints] == []
    assert len(outcomes) >= times
    assert all(outcome.plain and outcome.opened for outcome in outcomes if outcome.exists)
    assert sum(outcome.wrong for outcome in outcomes) == 0


@pytest.mark.parametrize("sites", [SMALL, LARGE])
def test_the_columns_are_the_recorder_s(nurseries: Nurseries, tmp_path: Path, sites: int) -> None:
    """Rows of the matrix are laid out as those of a recorded training."""
    plan = Plan(str(tmp_path / "run.h5"), str(tmp_path / "tally"), sites, None, deed="train", rows=1)
    assert nurseries.of(TRAINED).start(plan).wait() == 0
    run = open_run(plan.path)
    assert len(run.sites) == sites
    recorded = [(str(column.site), column.stat) for column in run.header.columns]
    assert recorded == [(str(column.site), column.stat) for column in recorded_header(sites).columns]
