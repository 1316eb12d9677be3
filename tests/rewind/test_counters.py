"""Numbers that modules keep as attributes: what they were before follows from what a step does to them."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

import nanscope
from nanscope.recording.rewind.counters import Counters
from tests.faults.second import temperature_by_a_counter


class Counting(nn.Module):
    """Counts its calls by ones, and by halves."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.halves, self.fixed = 7, 2.5, 3

    def forward(self) -> None:
        """Of nothing."""
        self.calls += 1
        self.halves += 0.5


@pytest.mark.parametrize(("executed", "steps"), [(1, 1), (1, 3), (2, 3)])
def test_what_they_were_before(executed: int, steps: int) -> None:
    """An execution of all steps ends with the values that the program had, whatever part was executed."""
    counting = Counting()
    counters = Counters(nn.Sequential(counting))
    for _ in range(executed):
        counting()
    assert counters.names() == "0.calls, 0.halves"
    assert counters.step_back(executed, steps)
    counters.put()
    assert (counting.calls, counting.halves, counting.fixed) == (7 - steps, 2.5 - steps / 2, 3)
    assert type(counting.calls) is int


def test_a_model_that_counts_nothing() -> None:
    """Near miss: there is no other beginning."""
    counters = Counters(nn.Linear(2, 2))
    assert not counters.step_back(1, 1)
    assert counters.names() == ""


def test_remedies_begin_with_the_same_numbers(tmp_path: Path) -> None:
    """Of a temperature that a counter lowers to zero no learning rate is the cure, only another division."""
    temperature_by_a_counter.program(
        lambda model, optimizer=None: nanscope.record(
            model, optimizer, tmp_path / "run.h5", verify_remedies=True
        )
    )
    tried = [r for r in nanscope.diagnose(tmp_path / "run.h5").remedies if r.outcome != "untried"]
    assert len(tried) >= 4
    assert [each.id for each in tried if each.outcome == "prevented"] == ["safe-rewrite"]
