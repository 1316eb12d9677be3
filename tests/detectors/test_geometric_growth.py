"""NS301: since when and how fast norms grow; noise does not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanscope.detectors.geometric_growth import break_point, geometric_growth, line
from tests.builders import diverged_run, healthy_run, make_run

NAN = np.nan


def growing(rows: int, since: int, rate: float, noise: float = 0.0) -> np.ndarray:
    """Flat at 2, then multiplied by `rate` at each step; log-normal noise."""
    factor = np.exp(np.random.default_rng(0).normal(0, noise, rows))
    return 2.0 * rate ** np.maximum(0, np.arange(rows) - since) * factor


def oracle(x: np.ndarray, y: np.ndarray) -> int:
    """The best break, by fitting both pieces anew for each."""
    costs = []
    for at in range(y.size - 2):
        flat = ((y[:at] - y[:at].mean()) ** 2).sum() if at else 0.0
        slope, shift = np.polyfit(x[at:], y[at:], 1)
        rest = y[at:] - (slope * x[at:] + shift if slope > 0 else y[at:].mean())
        costs.append(flat + (rest**2).sum())
    return int(np.argmin(costs))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(5, 60), st.integers(0, 1000))
def test_break_point_against_brute_force(rows: int, seed: int) -> None:
    """The cumulative sums give the break that fitting every break gives."""
    random = np.random.default_rng(seed)
    x = np.cumsum(random.integers(1, 5, rows)).astype(float)
    since = random.integers(0, rows)
    y = random.normal(0, 0.3, rows) + random.uniform(0.1, 3) * np.maximum(0, x - x[since])
    assert break_point(x, y) == oracle(x, y)


def test_line_against_polyfit() -> None:
    """Slope and R squared as numpy gives them."""
    random = np.random.default_rng(5)
    x, y = np.arange(30.0), np.arange(30.0) * 0.5 + random.normal(0, 1, 30)
    slope, fit = line(x, y)
    assert slope == pytest.approx(np.polyfit(x, y, 1)[0])
    assert fit == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2)


@pytest.mark.parametrize(("since", "rate"), [(180, 8.0), (100, 1.3), (20, 1.1)])
def test_fast_and_slow_growth(since: int, rate: float) -> None:
    """Step and rate within the noise, for growth over 20 to 180 steps up to a NaN."""
    norms = growing(200, since, rate, noise=0.1)
    run = make_run(outputs={"a": [*norms, NAN]}, loss=[1.0] * 200 + [NAN])
    (found,) = geometric_growth(run)
    assert abs(found.step - since) <= 5
    assert found.evidence["rate"] == pytest.approx(rate, rel=0.05)


def test_five_updates_are_enough() -> None:
    """The measured case: the largest weight goes from 3e10 to 1e27 in five updates."""
    norms = [*growing(300, 300, 1.0, 0.1), 3e10, 8e10, 1e15, 1e18, 1e27]
    run = make_run(
        outputs={"a": [*norms, NAN]}, weights={"a.weight": [*norms, NAN]}, loss=[1.0] * 305 + [NAN]
    )
    (found,) = geometric_growth(run)
    assert 298 <= found.step <= 301
    assert found.evidence["weights_grow"] is True
    assert found.evidence["sites"] == ("a.output", "a.weight")


def test_the_site_that_moved_first() -> None:
    """Three sites, three beginnings."""
    parts = {name: [*growing(200, since, 2.0), NAN] for name, since in (("a", 150), ("b", 120), ("c", 160))}
    (found,) = geometric_growth(make_run(outputs=parts, loss=[1.0] * 200 + [NAN]))
    assert str(found.site) == "b.output"


def test_weights_that_stay_are_told() -> None:
    """Outputs grow, weights are measured to the end and do not."""
    run = make_run(
        outputs={"a": [*growing(200, 150, 2.0), NAN]},
        weights={"a.weight": [3.0] * 201},
        loss=[1.0] * 200 + [NAN],
    )
    (found,) = geometric_growth(run)
    assert found.evidence["weights_grow"] is False


def test_a_run_that_ends_while_it_grows() -> None:
    """No NaN yet, the last 50 steps rise."""
    (found,) = geometric_growth(make_run(outputs={"a": growing(500, 450, 1.5, 0.2)}))
    assert abs(found.step - 450) <= 5


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("width", [0.3, 1.0, 3.0])
def test_noise_of_batch_size_one_is_no_growth(seed: int, width: float) -> None:
    """Near miss: gradient norms that vary by orders of magnitude from sample to sample."""
    norms = np.exp(np.random.default_rng(seed).normal(0, width, 3000))
    assert not list(geometric_growth(make_run(grads={"a.weight": norms})))
    assert not list(geometric_growth(make_run(grads={"a.weight": norms[:40]})))


def test_a_jump_is_no_growth() -> None:
    """Near miss: a norm that is 10,000 times as large from some step on, and stays there."""
    norms = np.where(np.arange(300) < 200, 1.0, 1e4) * np.exp(np.random.default_rng(1).normal(0, 0.1, 300))
    assert not list(geometric_growth(make_run(outputs={"a": norms})))


@pytest.mark.parametrize(("last", "found"), [(400.0, 0), (40.0, 1)])
def test_one_blow_before_the_trouble_is_no_growth(last: float, found: int) -> None:
    """Near miss: somebody wrote a large number into a weight; a rise over several steps is growth."""
    norms = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0 if last > 100 else 4.0, 1.0 if last > 100 else 30.0, 2000.0, NAN]
    run = make_run(weights={"a.weight": norms}, loss=[1.0] * 8 + [NAN])
    assert len(list(geometric_growth(run))) == found


def test_growth_that_is_over_is_no_growth_to_the_end() -> None:
    """Near miss: up a thousandfold and back."""
    norms = np.concatenate([growing(200, 150, 1.2), np.full(200, 2.0)])
    assert not list(geometric_growth(make_run(outputs={"a": norms})))


def test_linear_growth_of_weights_is_healthy() -> None:
    """Near miss: weights that grow by a constant amount."""
    run = make_run(weights={"a.weight": 1 + 0.01 * np.arange(5000)})
    assert not list(geometric_growth(run))


def test_the_stories() -> None:
    """The diverged run grows 8-fold from step 1400; the healthy one does not."""
    (found,) = geometric_growth(diverged_run(birth=1440, growth=40))
    assert abs(found.step - 1400) <= 2
    assert found.evidence["rate"] == pytest.approx(8, rel=0.1)
    assert found.evidence["weights_grow"] is True
    assert not list(geometric_growth(healthy_run()))
