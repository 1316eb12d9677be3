"""NS303: layers that lost their units."""

from __future__ import annotations

import numpy as np

from nanscope.detectors.dead_units import dead_units
from nanscope.values import Kind
from tests.builders import collapsed_run, every, make_run


def with_dead(*fractions: float, samples: int = 1) -> list[str]:
    """Sites found in a run that measured these dead fractions, one per 100 steps."""
    values = every(100, np.repeat(fractions, 100))
    run = make_run(
        outputs={"act": np.ones(values.size)},
        stats={(Kind.OUTPUT, "act", "dead_fraction"): values},
        samples=samples,
    )
    return [f"{finding.site}@{finding.step}" for finding in dead_units(run)]


def test_a_layer_that_dies() -> None:
    """95 % from step 300 on."""
    assert with_dead(0.1, 0.2, 0.4, 0.95, 0.95, 0.97) == ["act.output@300"]


def test_a_sparse_layer_is_healthy() -> None:
    """Near miss: 80 % of the units are dead, and stay so."""
    assert with_dead(*[0.8] * 6) == []


def test_one_measurement_is_not_enough() -> None:
    """Near miss: one window without a rare feature, then it is back; or the last window only."""
    assert with_dead(0.1, 0.95, 0.3) == []
    assert with_dead(0.1, 0.3, 0.95) == []


def test_windows_of_few_samples_do_not_speak() -> None:
    """Near miss: measured at every step near trouble, each window holds a single sample."""
    fraction = np.full(30, 0.95)
    run = make_run(
        outputs={"act": np.ones(30)}, stats={(Kind.OUTPUT, "act", "dead_fraction"): fraction}, samples=1
    )
    assert not list(dead_units(run))


def test_the_story() -> None:
    """The layer of the collapsed run."""
    (found,) = dead_units(collapsed_run(since=1000))
    assert (str(found.site), found.step) == ("layer2_activation.output", 1000)
