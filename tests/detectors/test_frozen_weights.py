"""NS305: parameters that do not move although they should."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nanscope.detectors._rows import measured, steady_since
from nanscope.detectors.frozen_weights import VISIBLE, frozen_weights
from nanscope.run import MISSING, Run
from nanscope.values import Kind, Severity
from tests.builders import collapsed_run, column, every, healthy_run, make_run

ROWS = 1000


def with_weight(norms: np.ndarray, grad: float | None = 0.5, lr: float | np.ndarray = 0.1) -> Run:
    """One parameter, measured every 100 steps."""
    grads = None if grad is None else {"fc.weight": np.full(ROWS, grad)}
    return make_run(
        outputs={"fc": np.ones(ROWS)}, weights={"fc.weight": every(100, norms)}, grads=grads, lr=lr
    )


@pytest.mark.parametrize(
    ("grad", "lr", "why"),
    [(0.5, 0.1, "optimizer"), (0.0, 0.1, "exactly zero"), (0.5, 0.0, "learning rate is zero")],
)
def test_a_constant_weight_and_its_reason(grad: float, lr: float, why: str) -> None:
    """Not given to the optimizer, cut off from the loss, or a zero learning rate."""
    (found,) = frozen_weights(with_weight(np.full(ROWS, 3.0), grad, lr))
    assert why in found.message
    assert (found.step, str(found.site)) == (0, "fc.weight")


def test_frozen_on_purpose() -> None:
    """Near miss: no gradient was ever recorded for it."""
    assert not list(frozen_weights(with_weight(np.full(ROWS, 3.0), None)))


def test_without_a_gradient() -> None:
    """A note, for it may be meant: others get gradients, this one none."""
    grads: dict[str, Any] = {"fc.weight": [None] * ROWS, "head.weight": np.full(ROWS, 0.5)}
    weights = {"fc.weight": every(100, np.full(ROWS, 3.0))}
    (found,) = frozen_weights(make_run(weights=weights, grads=grads, lr=0.1))
    assert (found.severity, found.evidence["sites"]) == (Severity.NOTE, ("fc.weight",))
    assert "detach" in found.message


LAYERS = ("body", "head")


def two_layers(grads: tuple[Any, Any], learns: dict[str, list[str]] | None, rows: int = 150) -> Run:
    """A body and a head; looks at steps 0 to 9 and 100, and the weights of the body do not move.

    Args:
        grads: norms of the gradients of both.
        learns: what an optimizer trains, by layer; None if the file does not say.
    """
    at = np.isin(np.arange(rows), [*range(10), 100])
    looks = {"body": np.where(at, 3.0, MISSING), "head": np.where(at, np.arange(rows), MISSING)}
    moves = {"body": np.where(at, 0.0, MISSING), "head": np.where(at, 1.0, MISSING)}
    norms: dict[str, Any] = {
        f"{name}.weight": np.resize(column(grad), rows) for name, grad in zip(LAYERS, grads, strict=True)
    }
    run = make_run(
        outputs={name: np.ones(rows) for name in LAYERS},
        weights={f"{name}.weight": looks[name] for name in LAYERS},
        grads=norms,
        stats={(Kind.UPDATE, f"{name}.weight", "l2"): moves[name] for name in LAYERS},
        lr=0.1,
    )
    model = tuple({"name": name} | ({"learns": learns[name]} if learns else {}) for name in LAYERS)
    return replace(run, header=replace(run.header, model=model))


BOTH = {"body": ["weight"], "head": ["weight"]}
HEAD = {"body": [], "head": ["weight"]}


@pytest.mark.parametrize(
    ("grads", "learns", "why"),
    [
        (([None], 0.5), BOTH, "cut off (detach"),
        ((0.5, 0.5), HEAD, "no optimizer holds it"),
        ((0.5, 0.5), None, "does not use it"),
        (([1e24] + [0.5] * 149, 0.5), BOTH, "step 0 is so large that its square is infinite"),
    ],
)
def test_measured_updates_of_zero(grads: tuple[Any, Any], learns: Any, why: str) -> None:
    """Updates that were measured as exactly zero tell sooner, and the file tells who was to move."""
    (found,) = frozen_weights(two_layers(grads, learns))
    assert why in found.message
    assert (found.severity, str(found.site)) == (Severity.WARNING, "body.weight")


@pytest.mark.parametrize("learns", [HEAD, None])
def test_a_body_that_nobody_trains(learns: Any) -> None:
    """Near miss: without a gradient and in no optimizer it may well be frozen on purpose."""
    run = two_layers(([None], 0.5), learns)
    assert {each.severity for each in frozen_weights(run)} <= {Severity.NOTE}


def test_a_rate_that_becomes_zero() -> None:
    """From its first zero on, also where weights are measured too rarely to tell."""
    moves = np.minimum(3 + np.arange(ROWS) / 100, 3 + 7.5)
    rates = np.where(np.arange(ROWS) < 750, 0.1, 0.0)
    (found,) = frozen_weights(with_weight(moves, lr=rates))
    assert (found.step, found.evidence["why"]) == (750, "the learning rate is zero")


def test_a_rate_that_ends_at_zero() -> None:
    """Near miss: a schedule that reaches zero in its last steps."""
    rates = np.where(np.arange(ROWS) < 900, 0.1, 0.0)
    assert not list(frozen_weights(with_weight(np.minimum(3 + np.arange(ROWS) / 100, 12.0), lr=rates)))


def test_too_slow_to_be_seen_is_not_frozen() -> None:
    """Near miss: the sum of all updates is below what a float32 norm can show."""
    assert not list(frozen_weights(with_weight(np.full(ROWS, 3.0), 1e-6)))


def test_a_converged_weight_is_not_frozen() -> None:
    """Near miss: every single update is lost in float32's rounding, though their sum would be seen."""
    rows, grad, lr, norm = 30_000, 3e-6, 0.1, 3.0
    assert VISIBLE * norm < rows * lr * grad
    weights = {"fc.weight": every(100, np.full(rows, norm))}
    assert not list(
        frozen_weights(make_run(weights=weights, grads={"fc.weight": np.full(rows, grad)}, lr=lr))
    )


def test_a_weight_that_moves() -> None:
    """Near miss: it moves by one unit in the last place per measurement."""
    norms = np.float32(3) + np.arange(ROWS, dtype=np.float32) / 100 * np.spacing(np.float32(3))
    assert not list(frozen_weights(with_weight(norms)))


def test_all_parameters_of_a_reason_are_one_finding() -> None:
    """Two constant parameters, one finding that names both."""
    weights = {name: every(100, np.full(ROWS, 1.0)) for name in ("a.weight", "b.weight")}
    grads = {name: np.zeros(ROWS) for name in weights}
    (found,) = frozen_weights(make_run(weights=weights, grads=grads, lr=0.1))
    assert found.evidence["sites"] == ("a.weight", "b.weight")


def test_the_stories_move() -> None:
    """Healthy and collapsed runs of the builders have weights that move."""
    assert not list(frozen_weights(healthy_run()))
    assert not list(frozen_weights(collapsed_run()))


@pytest.mark.parametrize("seed", range(8))
def test_nothing_before_the_steady_rows_is_of_another_value_later(seed: int) -> None:
    """Reading from there on finds the constant end of a column as reading all of it does."""
    random = np.random.default_rng(seed)
    rows, moves = 20_000, int(random.integers(0, 20_000))
    values = np.where(np.arange(rows) < moves, random.random(rows), 0.5).astype(np.float32)
    values[random.random(rows) < 0.5] = MISSING
    run = make_run(loss=values)
    stop = int(random.integers(1, rows))
    start = steady_since(run, None, "loss", stop)
    all_rows, all_values = measured(run, None, "loss", 0, stop)
    part_rows, part_values = measured(run, None, "loss", start, stop)
    if all_values.size:
        other = all_rows[all_values != all_values[-1]]
        assert part_values[-1] == all_values[-1]
        assert part_rows[part_values != part_values[-1]].max(initial=-1) == other.max(initial=-1)
