"""Every program, family by family."""

from __future__ import annotations

from types import ModuleType

from tests.faults import backward, data, forward, learning_rate, loss, optimizer, precision
from tests.faults.fault import Fault

MODULES: tuple[ModuleType, ...] = (
    forward,
    loss,
    backward,
    optimizer,
    data,
    precision,
    learning_rate,
)
"""One module per family, in the order of the scoreboard; a new module is added here."""


def faults() -> tuple[Fault, ...]:
    """Every program, in the order in which it is written."""
    return tuple(each for module in MODULES for each in vars(module).values() if isinstance(each, Fault))
