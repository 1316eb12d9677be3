"""Healthy programs are healthy, by plain torch: finite at the end, and learning."""

from __future__ import annotations

from statistics import fmean

import pytest

from tests.faults import healthy, healthy_courses, healthy_models, healthy_numbers
from tests.faults.fault import Fault
from tests.faults.oracle import Oracle, Seen

PROGRAMS = [
    each
    for module in (healthy, healthy_numbers, healthy_courses, healthy_models)
    for each in vars(module).values()
    if isinstance(each, Fault)
]
WITHOUT_A_FALLING_LOSS = {
    "top_k_sampling": "the loss of a policy gradient has either sign",
    "policy_gradient": "the loss of a policy gradient has either sign",
    "two_players": "each player undoes what the other has learnt",
}


def trained(program: Fault) -> Seen:
    """What the oracle sees of the training."""
    oracle = Oracle()
    program.program(oracle.watch)
    return oracle.seen


def test_there_are_enough_of_them() -> None:
    """At least 28 programs, all of different names, none of them a fault."""
    assert len({each.name for each in PROGRAMS}) == len(PROGRAMS) >= 28
    assert all(each.healthy for each in PROGRAMS)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda each: each.name)
def test_finite_and_learning(program: Fault) -> None:
    """Loss and parameters are finite at the end; the last losses are clearly below the first."""
    seen = trained(program)
    assert seen.ends_finite
    if program.name not in WITHOUT_A_FALLING_LOSS:
        part = max(1, len(seen.losses) // 8)
        assert fmean(seen.losses[-part:]) < 0.8 * fmean(seen.losses[:4])
