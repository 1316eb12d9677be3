"""The faults: what they claim is the truth by plain torch, and what nanscope says of them."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from tests.faults.catalogue import faults
from tests.faults.fault import Fault, Truth, fair
from tests.faults.known_wrong import KNOWN_WRONG
from tests.faults.oracle import Birth, Oracle, Seen
from tests.faults.score import judged

PHASES = ("init", "data", "forward", "loss", "backward", "update")

OUT_OF_SIGHT = {
    "logarithm_in_numpy": "numpy computes it",
    "textbook_softplus": "the oracle names what runs inside of a custom function",
    "poisoned_state": "no operation made it: it is loaded",
    "hook_normalises_a_zero_gradient": "the oracle does not know hooks by name",
    "module_hook_divides_by_a_count": "the oracle does not know hooks by name",
    "hook_standardises_a_single_number": "the oracle does not know hooks by name",
    "hook_marks_with_nan": "the oracle does not know hooks by name",
    "statistics_poisoned_earlier": "noticed long after it was born",
    "missing_target": "the target comes in as NaN: no operation makes it",
    "square_of_a_large_target": "the loss is one number: it has no rows",
    "discriminator_too_sure": "the oracle counts one step for both optimizers, nanscope one for each",
    "no_tag_is_possible": "the oracle takes the sum of infinities for no birth",
}
"""Programs whose operation the oracle cannot confirm; step and phase of the symptom it can."""

NOTICED_LATER = {
    "statistics_poisoned_earlier": "running statistics do not matter before evaluation",
    "discriminator_too_sure": "the oracle counts one step for both optimizers, nanscope one for each",
    "adam_by_hand": "without an optimizer the next pass belongs to the same step",
    "infinite_rate_of_lbfgs": "the optimizer calls the model again before its step is over",
}

FAULTS = [each for each in faults() if each.truth is not None and each.truth.step is not None]


def seen_of(fault: Fault) -> Seen:
    """What the oracle sees of the training."""
    oracle = Oracle()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own about the program
        fault.program(oracle.watch)
    return oracle.seen


def fits(birth: Birth, truth: Truth) -> bool:
    """Whether this birth is the one that the truth tells of."""
    return (
        birth.step == truth.step
        and birth.phase in fair(truth.phase)
        and birth.module in fair(truth.module)
        and birth.op in fair(truth.op)
        and (truth.sample is None or truth.sample in birth.rows)
    )


def test_names_are_unique() -> None:
    """No two programs share a name, and each says in a sentence what it is."""
    names = [each.name for each in faults()]
    assert len(set(names)) == len(names)
    assert all(each.summary for each in faults())


def test_there_are_enough() -> None:
    """At least 60 faults, four of each family, and 25 healthy programs."""
    planted = [each.family for each in faults() if not each.healthy]
    assert len(planted) >= 60
    assert all(planted.count(family) >= 4 for family in planted)
    assert sum(each.healthy for each in faults()) >= 25


def test_what_is_known_to_be_wrong_exists() -> None:
    """The lists of exceptions name programs, not memories of them."""
    assert {*KNOWN_WRONG, *OUT_OF_SIGHT, *NOTICED_LATER} <= {each.name for each in faults()}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda each: each.name)
def test_truth_by_plain_torch(fault: Fault) -> None:
    """The first symptom has the step of the truth, and the operation is seen to make it."""
    truth, seen = fault.truth, seen_of(fault)
    assert truth is not None
    assert seen.symptom is not None
    if fault.name not in NOTICED_LATER:
        assert seen.symptom.step == truth.step
        earliest = min(PHASES.index(phase) for phase in fair(truth.phase))
        assert PHASES.index(seen.symptom.phase) >= earliest
    if {"data", "init"} & set(fair(truth.phase)):
        assert seen.symptom.phase in fair(truth.phase)
    elif fault.name not in OUT_OF_SIGHT:
        assert any(fits(birth, truth) for birth in seen.births)


@pytest.mark.parametrize("fault", faults(), ids=lambda each: each.name)
def test_nanscope(fault: Fault, tmp_path: Path) -> None:
    """Everything that is asked is right, but for what is known to be wrong - and that is still wrong."""
    score = judged(fault, tmp_path / "run.h5")
    assert score.wrong == KNOWN_WRONG.get(fault.name, ()), f"{score.said}\n{fault.truth}"
