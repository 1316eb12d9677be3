"""Programs that collapse or answer a constant do so, by plain torch: the output forgets the input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.faults import collapse, constant
from tests.faults.fault import Fault, fair

PROGRAMS = [
    each for module in (collapse, constant) for each in vars(module).values() if isinstance(each, Fault)
]
CONSTANT = [each for each in PROGRAMS if each.truth and fair(each.truth.verdict)[0] == "collapsed"]
LAST = 12


class Onlooker:
    """Stands in for the recorder and keeps the model with its last inputs."""

    def __init__(self) -> None:
        self.inputs: list[Tensor] = []

    @contextmanager
    def watch(self, model: nn.Module, _optimizer: object = None) -> Iterator[None]:
        """A `with` block of training."""
        self.model = model
        handle = model.register_forward_pre_hook(self._keep)
        yield
        handle.remove()

    def _keep(self, _module: nn.Module, inputs: Any) -> None:
        self.inputs = [*self.inputs[1 - LAST :], inputs[0].detach().clone()]


def outputs(program: Fault) -> Tensor:
    """What the trained model answers to the last batches, as it was trained; shape (samples, outputs)."""
    onlooker = Onlooker()
    program.program(onlooker.watch)
    with torch.no_grad():
        answered: Tensor = onlooker.model(torch.cat(onlooker.inputs))
    return answered


@pytest.mark.parametrize("program", CONSTANT, ids=lambda each: each.name)
def test_every_sample_gets_the_same_answer(program: Fault) -> None:
    """The outputs of all samples are equal and finite."""
    answers = outputs(program)
    assert answers.isfinite().all()
    assert (answers - answers[0]).abs().max() <= 1e-6 * answers.abs().max()


def test_the_softmax_of_one_logit_is_one() -> None:
    """The program whose verdict may be milder answers 1 for every sample all the same."""
    assert (outputs(constant.softmax_over_one_logit) == 1.0).all()


def test_the_argmax_of_nan_is_class_zero() -> None:
    """The program that diverges ends with NaN for every sample."""
    answers = outputs(collapse.class_zero_for_everything)
    assert answers.isnan().all()
    assert (answers.argmax(dim=1) == 0).all()


def test_most_units_of_the_hidden_layer_are_dead() -> None:
    """At least 90 % of the units are zero for every sample, and the answers differ still."""
    onlooker = Onlooker()
    collapse.most_units_die.program(onlooker.watch)
    x = torch.cat(onlooker.inputs)
    with torch.no_grad():
        hidden = onlooker.model[1](onlooker.model[0](x))  # type: ignore[index,operator]
    assert (hidden == 0).all(dim=0).float().mean() >= 0.9
    assert outputs(collapse.most_units_die).std(dim=0).min() > 0.1
