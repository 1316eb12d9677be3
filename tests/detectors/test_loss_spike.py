"""NS302: a loss that jumps back to where the training began."""

from __future__ import annotations

import numpy as np
import pytest

from nanscope.detectors.loss_spike import PAST, loss_spike, spikes_in
from tests.builders import make_run

FALL = 2.3 * np.exp(-np.arange(400) / 60) + 0.05


def test_a_spike_in_batches() -> None:
    """Batch 256: five steps at 4 after a loss of 0.1."""
    loss = FALL.copy()
    loss[300:305] = [3, 4, 3.5, 3, 3]
    (found,) = loss_spike(make_run(loss=loss, samples=256))
    assert (found.step, found.evidence["peak"], found.evidence["block"]) == (301, 4.0, 1)


def test_a_bump_below_the_beginning_is_no_spike() -> None:
    """Near miss: ten times the recent loss, yet less than at the beginning."""
    loss = FALL.copy()
    loss[300:305] = 0.9
    assert not list(loss_spike(make_run(loss=loss, samples=256)))


@pytest.mark.parametrize("seed", range(5))
def test_single_hard_samples_are_no_spike(seed: int) -> None:
    """Near miss: at batch size 1 one sample in 200 costs 10, the others nearly nothing."""
    random = np.random.default_rng(seed)
    loss = np.where(random.random(20_000) < 0.005, 10.0, 0.001)
    loss[:300] = 2.3
    assert not list(loss_spike(make_run(loss=loss, samples=1)))


def test_the_first_blocks_are_no_spike() -> None:
    """A history of 16 blocks is needed."""
    loss = np.ones(PAST)
    loss[8] = 100
    assert not list(loss_spike(make_run(loss=loss, samples=256)))


@pytest.mark.parametrize(("height", "spikes"), [(-1.9e-5, 0), (3e-5, 0), (7e-5, 1)])
def test_a_loss_below_zero(height: float, spikes: int) -> None:
    """Three times of a negative number is below it: what counts is how far from zero the loss was."""
    means = np.full(40, -2.1e-5)
    means[0], means[30] = -0.7, height
    assert len(spikes_in(means)) == spikes


def test_spikes_against_a_loop() -> None:
    """The sliding maximum gives what a plain loop gives, NaN blocks included."""
    means = np.exp(np.random.default_rng(3).normal(0, 2, 300))
    means[50:60] = np.nan
    expected = [
        i
        for i in range(PAST, 300)
        if means[i] > means[0] and means[i] > 3 * np.nanmax(means[i - PAST : i], initial=-np.inf)
    ]
    assert expected
    assert spikes_in(means).tolist() == expected
