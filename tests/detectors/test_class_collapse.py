"""NS202, NS203, NS205: collapses with a finite loss, each told apart; and what only looks like one."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from nanscope.detectors.class_collapse import at_chance, class_collapse, effective_classes
from nanscope.values import Epoch, Finding, Severity
from tests.builders import CLASSES, collapsed_run, diverged_run, healthy_run, make_run

ROWS = 4000
CHANCE = math.log(CLASSES)


def found_in(**parts: object) -> Finding | None:
    """The finding of a healthy batch-1 run with other columns."""
    return next(iter(class_collapse(healthy_run(ROWS, **parts))), None)


def one_hot(classes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Predictions, shape (rows, classes), one per step."""
    return np.eye(CLASSES)[classes]


def noisy(loss: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """The heavy-tailed losses of single samples with about this mean."""
    return loss * np.random.default_rng(0).exponential(1, ROWS)


def test_a_loss_of_zero_is_no_chance_level() -> None:
    """Near miss: a model with nothing left to learn may give one answer, whatever its first loss was."""
    run = make_run(loss=[0.0] * 10)
    assert not at_chance(run, 0.0)
    assert at_chance(make_run(loss=[2.3] * 10), 2.3)


@pytest.mark.parametrize(
    ("first", "last", "chance"),
    [(2.5, 2.3, True), (90.0, 2.3, True), (90.0, 4.0, False), (2.5, 1.5, False), (4.0, 3.9, True)],
)
def test_a_loss_of_guessing_whatever_the_first_was(first: float, last: float, *, chance: bool) -> None:
    """Inputs that nobody scaled give a large first loss; near misses: on its way down, and below guessing."""
    run = make_run(loss=[first, *[last] * 9], predicted=one_hot(np.arange(10)))
    assert at_chance(run, last) == chance


def test_a_dead_layer_though_the_predictions_wander() -> None:
    """All ten classes are "predicted", yet a hidden layer is zero."""
    (found,) = class_collapse(collapsed_run(rows=3000, since=1000))
    assert (found.rule, found.severity, str(found.site)) == (
        "NS202",
        Severity.ERROR,
        "layer2_activation.output",
    )
    assert 700 <= found.step <= 1000
    assert found.evidence["classes"] > 9


def test_a_dead_branch_of_a_model_that_learns_is_no_collapse() -> None:
    """Near miss: a zero layer beside a residual path; the loss is low."""
    outputs = {"branch": np.zeros(ROWS), "final": np.ones(ROWS)}
    assert found_in(outputs=outputs) is None


def test_a_layer_that_is_zero_now_and_then_is_alive() -> None:
    """Near miss: a third of the samples activate nothing, and the loss is that of an untrained model."""
    zero = np.random.default_rng(1).random(ROWS) < 0.33
    assert found_in(outputs={"a": np.where(zero, 0, 1.0)}, loss=noisy(CHANCE)) is None


def test_constant_logits() -> None:
    """The margin does not move while the inputs do."""
    margin = 0.3 + 1e-6 * np.random.default_rng(2).random(ROWS)
    found = found_in(loss=noisy(CHANCE), logits_margin=margin, predicted=one_hot(np.full(ROWS, 4)))
    assert found is not None
    assert (found.rule, found.evidence["top_class"]) == ("NS203", 4)


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [(2.0, 1e-5, True), (2.0, 0.1, False), (3e-4, 3e-4, False), (0.0, 0.0, True)],
)
def test_samples_of_a_batch_that_get_the_same_logits(before: float, after: float, *, found: bool) -> None:
    """Fallen together, or alike to the last digit; near misses: small, and small since the beginning."""
    spread = np.where(np.arange(ROWS) < ROWS // 2, before, after)
    finding = found_in(loss=noisy(CHANCE), logits_spread=spread, samples=16.0)
    assert (finding is not None and finding.rule == "NS203") == found


def test_the_step_in_which_samples_became_alike() -> None:
    """Not the window in which that is seen, but the step after the last one in which they differed."""
    spread = np.where(np.arange(ROWS) < 1234, 2.0, 0.0)
    found = found_in(loss=noisy(CHANCE), logits_spread=spread, samples=16.0)
    assert found is not None
    assert (found.step, found.evidence["rows"]) == (1234, ROWS - 1234)


@pytest.mark.parametrize(
    ("gradients", "site"),
    [((0.0, 0.0, 1.0), "fc.grad_output"), ((0.0, 1.0, 1.0), "conv.grad_output"), ((1.0, 0.0, 1.0), None)],
)
def test_where_the_gradient_ends(gradients: tuple[float, ...], site: str | None) -> None:
    """The last layer that no gradient reaches is named; near misses: a branch of its own, none at all."""
    run = make_run(
        loss=noisy(CHANCE),
        logits_spread=np.zeros(ROWS),
        logits_abs_max=np.ones(ROWS),
        samples=np.full(ROWS, 16.0),
        predicted=one_hot(np.full(ROWS, 1)),
        grad_outputs={
            name: np.full(ROWS, norm) for name, norm in zip(("conv", "fc", "head"), gradients, strict=True)
        },
    )
    (found,) = class_collapse(run)
    assert found.rule == "NS203"
    assert (None if found.site is None else str(found.site)) == site


def test_constant_logits_of_a_constant_input_are_right() -> None:
    """Near miss: the same batch at every step."""
    parts = {"loss": np.full(ROWS, CHANCE), "logits_margin": np.full(ROWS, 0.3), "inputs": np.ones(ROWS)}
    assert found_in(**parts, predicted=one_hot(np.full(ROWS, 4))) is None


def test_predictions_that_narrowed_down() -> None:
    """Ten classes for half of the run, then one, at the loss of guessing."""
    classes = np.random.default_rng(3).integers(0, CLASSES, ROWS)
    classes[ROWS // 2 :] = 6
    loss = noisy(np.where(np.arange(ROWS) < ROWS // 2, 1.5, CHANCE))
    found = found_in(loss=loss, predicted=one_hot(classes))
    assert found is not None
    assert (found.rule, found.step, found.evidence["top_class"]) == ("NS205", ROWS // 2, 6)


def test_samples_sorted_by_class_are_no_collapse() -> None:
    """Near miss: 1,000 samples of one class in a row, predicted right."""
    loss = noisy(2.3 * np.exp(-np.arange(ROWS) / 50) + 0.05)
    assert found_in(loss=loss, predicted=one_hot(np.arange(ROWS) // 1000)) is None


def test_a_slow_start_is_no_collapse() -> None:
    """Near miss: an untrained model predicts one class all along, and its loss hardly falls yet."""
    loss = CHANCE * np.linspace(1, 0.9, ROWS)
    assert found_in(loss=loss, predicted=one_hot(np.full(ROWS, 1))) is None


def test_imbalanced_labels_are_no_collapse() -> None:
    """Near miss: 95 % of the labels are class 2 and so are the predictions; the loss is their entropy."""
    classes = np.random.default_rng(4).integers(0, CLASSES, ROWS)
    classes[ROWS // 2 :] = 2
    config = {"label_counts": [5] * 2 + [950] + [5] * 7}
    assert found_in(config=config, loss=noisy(0.3), predicted=one_hot(classes)) is None
    assert found_in(config=config, loss=np.full(ROWS, 2.3), predicted=one_hot(classes)) is None


@pytest.mark.parametrize(("share", "rule"), [(1.0, "NS205"), (0.6, None)])
def test_an_evaluation_that_predicts_one_class(share: float, rule: str | None) -> None:
    """All (or, near miss, 60 %) of the evaluation in one class, at a loss that stays at guessing."""
    row = tuple(round(100 * (share if c == 5 else (1 - share) / 9)) for c in range(CLASSES))
    run = healthy_run(ROWS, loss=np.full(ROWS, CHANCE))
    epoch = Epoch(1, ROWS, ROWS, 1.0, CHANCE, 0.1, 0.02, (row,) * CLASSES)
    told = dataclasses.replace(run, epochs=(epoch,))
    assert [finding.rule for finding in class_collapse(told)] == ([rule] if rule else [])


def test_a_short_run_is_not_judged() -> None:
    """Below 1,000 samples nothing is claimed."""
    assert not list(class_collapse(collapsed_run(rows=900, since=100)))


def test_a_diverged_run_did_not_collapse() -> None:
    """Near miss: class 0 for everything, but of NaN."""
    assert not list(class_collapse(diverged_run()))


def test_effective_classes_against_the_definition() -> None:
    """The exponential of the Shannon entropy, by hand."""
    assert effective_classes(np.array([[0.25] * 4, [1, 0, 0, 0], [0.5, 0.5, 0, 0]])) == pytest.approx(
        [4, 1, 2]
    )


def test_nothing_is_claimed_of_a_regression() -> None:
    """Without classes and without a dead layer there is no collapse to see."""
    assert not list(class_collapse(make_run(outputs={"a": np.ones(ROWS)}, loss=np.ones(ROWS))))
