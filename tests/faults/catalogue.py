"""Every program, family by family."""

from __future__ import annotations

from types import ModuleType

from tests.faults import (
    backward,
    collapse,
    constant,
    custom,
    data,
    forward,
    healthy,
    healthy_courses,
    healthy_models,
    healthy_numbers,
    hooks,
    initialisation,
    learning_rate,
    loss,
    masking,
    missed,
    normalisation,
    optimizer,
    precision,
    recurrent,
    second,
    second_updates,
)
from tests.faults.fault import Fault

MODULES: tuple[ModuleType, ...] = (
    forward,
    loss,
    backward,
    optimizer,
    data,
    precision,
    learning_rate,
    initialisation,
    normalisation,
    masking,
    recurrent,
    custom,
    hooks,
    collapse,
    constant,
    missed,
    second,
    second_updates,
    healthy,
    healthy_numbers,
    healthy_courses,
    healthy_models,
)
"""In the order of the scoreboard; a new module is added here."""


def faults() -> tuple[Fault, ...]:
    """Every program, in the order in which it is written."""
    return tuple(each for module in MODULES for each in vars(module).values() if isinstance(each, Fault))
