"""The answer from a file that was thinned to a tenth of its rows is the answer from all of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nanscope.diagnosis import diagnose
from nanscope.run import Run, is_missing
from nanscope.store.layout import Layout
from nanscope.store.reader import open_run
from nanscope.store.writer import RunWriter
from nanscope.values import Diagnosis, Verdict
from tests.builders import collapsed_run, diverged_run, healthy_run, make_source

ROWS, SINCE = 20_000, 15_000


def thinned(run: Run, path: Path, matters: int | None) -> Run:
    """The run as a file that keeps 40 of its 313 blocks whole, and those around the row that matters."""
    sizes = Layout(len(run.header.columns), 64, 256, 400, 40)
    writer = RunWriter.create(path, run.header, layout=sizes)
    times = run.source.times(0, ROWS)
    for start in range(0, ROWS, 64):
        for i, row in enumerate(run.source.block(start, min(start + 64, ROWS)), start):
            writer.append(int(run.steps[i]), float(times[i]), row)
            if i == matters:
                writer.keep()
    for event in run.events:
        writer.event(**event)
    for epoch in run.epochs:
        writer.epoch(epoch)
    writer.close(run.state)
    return open_run(path)


def rules(diagnosis: Diagnosis) -> set[str]:
    """Rules of the errors."""
    return {finding.rule for finding in diagnosis.findings if finding.severity == "error"}


@pytest.mark.parametrize("make", [healthy_run, diverged_run, collapsed_run])
def test_thinning_changes_no_verdict(tmp_path: Path, make: type) -> None:
    """Verdict, origin, causes and errors are the same; what is missing stands among the unknowns."""
    change = {healthy_run: {}, diverged_run: {"birth": SINCE}, collapsed_run: {"since": SINCE}}[make]
    whole = make(ROWS, **change)
    kept = thinned(whole, tmp_path / "run.h5", SINCE if change else None)
    gone = is_missing(kept.scalar("loss"))
    assert 0.8 < gone.mean() < 0.9
    expected, found = diagnose(whole), diagnose(kept)
    assert found.verdict == expected.verdict
    assert rules(found) == rules(expected)
    assert [cause.id for cause in found.causes] == [cause.id for cause in expected.causes]
    if expected.origin is not None:
        assert found.origin is not None
        assert (found.origin.step, found.origin.site) == (expected.origin.step, expected.origin.site)
    assert any("kept as summaries" in unknown for unknown in found.unknowns)
    np.testing.assert_array_equal(kept.steps, whole.steps)
    aftermath = any("when exactly norms were" in unknown for unknown in found.unknowns)
    assert aftermath == (make is diverged_run)


def test_a_norm_that_was_infinite_in_between_is_not_passed_over(tmp_path: Path) -> None:
    """A healthy run but for one infinity among the thinned rows: not called free of non-finite values."""
    healthy = healthy_run(ROWS)
    arrays = [np.array(healthy.source.column(i, 0, ROWS)) for i in range(len(healthy.header.columns))]
    arrays[healthy.index(healthy.sites[1], "l2")][SINCE - 5000] = np.inf
    found = diagnose(
        thinned(replace(healthy, source=make_source(arrays, healthy)), tmp_path / "run.h5", None)
    )
    assert found.verdict is Verdict.SUSPICIOUS
    assert found.summary.endswith("norms were non-finite in steps between them")
    told = "when exactly norms were non-finite (1 times): those steps are kept as summaries only"
    assert told in found.unknowns
