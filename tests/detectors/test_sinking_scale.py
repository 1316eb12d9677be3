"""NS307: a loss scale that sinks and does not come back."""

from __future__ import annotations

import numpy as np
import pytest

from nanscope.detectors.sinking_scale import sinking_scale
from nanscope.run import Run
from nanscope.values import Finding, Severity
from tests.builders import healthy_run
from tests.detectors.scaled import scaled_run


def found_in(run: Run) -> Finding:
    """The one finding."""
    (finding,) = sinking_scale(run)
    return finding


def test_a_steep_fall() -> None:
    """Settled at 16,384, then a skip every hundred steps: from where, to where, how many skips."""
    finding = found_in(scaled_run(3000, [0, 1, *range(1500, 2700, 100)]))
    assert (finding.severity, finding.evidence["to"], finding.evidence["last_step"]) == (
        Severity.WARNING,
        4.0,
        2601,
    )
    assert finding.evidence["from"] == 16384.0
    assert finding.step == 1500
    assert finding.evidence["skipped"] == 12


@pytest.mark.parametrize("rows", [18, 40, 400])
def test_it_never_finds_a_level(rows: int) -> None:
    """Seventeen skips from the first step on, below 1: the scale is not the reason, calm as it is then."""
    finding = found_in(scaled_run(rows, range(17)))
    assert (finding.step, finding.evidence["from"], finding.evidence["to"]) == (0, 65536.0, 0.5)
    assert "below 1" in finding.message


@pytest.mark.parametrize("rows", [144, 400])
def test_down_to_nothing(rows: int) -> None:
    """Denormal, and then zero: an error, for nothing can be learnt with it."""
    finding = found_in(scaled_run(rows, range(rows)))
    assert finding.severity is Severity.ERROR
    assert finding.evidence["to"] == (0.0 if rows == 400 else 2.0**-127)
    assert "every gradient is lost" in finding.message


NEAR: dict[str, Run] = {
    "the search for a level, from high up": scaled_run(300, range(30), init=2.0**32),
    "a fall that ended, and growth since": scaled_run(6000, [*range(1000, 1012)]),
    "slow: gradients that grow within a long training": scaled_run(
        26_000, range(3000, 3000 + 12 * 1990, 1990)
    ),
    "nine halvings": scaled_run(3000, range(1500, 2400, 100)),
    "a level about 1": scaled_run(9000, [0, 2001, 4500, 6600], init=1.0),
    "two halvings in a row across 1": scaled_run(1500, [500, 900], init=2.0),
    "born below 1": scaled_run(500, [100], init=0.25),
    "lowered by hand": scaled_run(500, [], loss_scale=np.where(np.arange(500) < 200, 65536.0, 0.5)),
    "no scaler": healthy_run(300),
}


@pytest.mark.parametrize("run", NEAR.values(), ids=NEAR)
def test_near_misses(run: Run) -> None:
    """Scales that move and are well."""
    assert not list(sinking_scale(run))


def test_it_starts_anew_after_growth() -> None:
    """The fall is told from the last growth on, not from the first step of the run."""
    finding = found_in(scaled_run(4000, [0, 1, *range(3000, 3014)]))
    assert finding.evidence["from"] == 32768.0
    assert finding.evidence["skipped"] == 14
    assert finding.step == 3000
