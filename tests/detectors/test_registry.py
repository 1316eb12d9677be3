"""The tuple of detectors: complete, as the files say, quiet on a healthy run and on an empty one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import nanscope.detectors
from nanscope.detectors import DETECTORS, Detector, detect
from tests.builders import collapsed_run, diverged_run, healthy_run, make_run


def test_every_file_is_registered() -> None:
    """A detector has the name of its file; files with an underscore are shared by several."""
    files = {path.stem for path in Path(nanscope.detectors.__file__).parent.glob("[a-z]*.py")}
    assert {detector.__name__ for detector in DETECTORS} == files
    assert len(DETECTORS) == len(files)


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda detector: detector.__name__)
@pytest.mark.parametrize("rows", [0, 1, 2, 5, 1500])
def test_healthy_run_of_any_length_has_no_finding(detector: Detector, rows: int) -> None:
    """Healthy noise of batch size 1 fires nothing, however short the run."""
    assert not list(detector(healthy_run(rows)))


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda detector: detector.__name__)
def test_a_run_without_their_columns_is_no_error(detector: Detector) -> None:
    """What was not recorded cannot be found, and nothing is raised."""
    assert not list(detector(make_run(accuracy=[0.1, 0.2])))
    assert not list(detector(make_run()))


def test_findings_are_sorted_by_step_then_severity() -> None:
    """At the same step the worst comes first."""
    for run in (diverged_run(), collapsed_run()):
        keys = [(finding.step, -finding.severity) for finding in detect(run)]
        assert len(keys) > 1
        assert keys == sorted(keys)


def test_detectors_leave_the_arrays_alone() -> None:
    """A detector is pure: the run is bitwise the same afterwards, and a second look finds the same."""
    run = diverged_run()
    before = run.source.block(0, len(run)).tobytes()
    first = detect(run)
    assert run.source.block(0, len(run)).tobytes() == before
    assert detect(run) == first


def test_steps_need_not_start_at_zero() -> None:
    """Findings name step numbers, not row numbers."""
    numbers = np.array([100, 102, 104, 106])
    run = make_run(outputs={"fc1": [1, 1, np.nan, np.nan]}, loss=[1, 1, np.nan, np.nan], steps=numbers)
    assert detect(run)[0].step == 104
