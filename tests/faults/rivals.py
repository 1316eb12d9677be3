"""What other tools say of the same programs: the step, and the operation or module if they name one."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from tests.faults.fault import Fault, fair
from tests.faults.oracle import finite, snake


@dataclass(frozen=True, slots=True)
class Said:
    """The first complaint of a rival: when, and about what."""

    step: int
    op: str | None
    words: str


@dataclass(frozen=True, slots=True)
class Rival:
    """One tool.

    Attributes:
        name: as its users call it.
        needs: the package without which it cannot be tried; None for torch itself.
        around: a context manager over (model) inside of which it watches; what it raises is its complaint.
    """

    name: str
    needs: str | None
    around: Callable[[nn.Module], contextlib.AbstractContextManager[Any]]

    @property
    def installed(self) -> bool:
        """Whether it can be tried here."""
        return self.needs is None or find_spec(self.needs) is not None


class Steps:
    """Counts the updates of an optimizer, those included that a gradient scaler skips."""

    def __init__(self, optimizer: Optimizer | tuple[Optimizer, ...] | None) -> None:
        first = optimizer if isinstance(optimizer, Optimizer) or optimizer is None else tuple(optimizer)[-1]
        self.number = 0
        if first is not None:
            first.register_step_post_hook(lambda *_: self._next())

    def _next(self) -> None:
        self.number += 1


@contextlib.contextmanager
def _anomaly(_model: nn.Module) -> Iterator[None]:
    with torch.autograd.detect_anomaly(check_nan=True):
        yield


@contextlib.contextmanager
def _hugging_face(model: nn.Module) -> Iterator[None]:
    import_module("transformers.debug_utils").DebugUnderflowOverflow(model)
    yield


@contextlib.contextmanager
def _torchlens(model: nn.Module) -> Iterator[None]:
    """As its users do: once the model's output is bad, its `find_nan` is given the model and the batch."""
    find_nan = import_module("torchlens.debug").find_nan

    def look(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if finite(tree_leaves(output)):
            return
        handle.remove()
        found = find_nan(model, list(inputs))
        raise RuntimeError(f"torchlens found '{found.label}'")

    handle = model.register_forward_hook(look)
    yield
    handle.remove()


RIVALS = (
    Rival("detect_anomaly", None, _anomaly),
    Rival("DebugUnderflowOverflow", "transformers", _hugging_face),
    Rival("torchlens find_nan", "torchlens", _torchlens),
)

OTHER_WORDS = {"linear": "addmm", "truediv": "div"}
"""What torchlens calls an operation, and its canonical name: another word is not a mistake."""

UNTRIED = {"mindstudio-probe": "its nan_check needs torch_npu and its accelerator"}
"""Tools that cannot be tried on a CPU, and why."""


def complaint(rival: Rival, fault: Fault) -> Said | None:
    """What it says first about the program; None when it says nothing.

    The program ends with the complaint: these tools raise.
    """
    steps: list[Steps] = []

    @contextlib.contextmanager
    def watch(model: nn.Module, optimizer: Any = None) -> Iterator[None]:
        steps.append(Steps(optimizer))
        with rival.around(model):
            yield

    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            fault.program(watch)
        except (RuntimeError, ValueError) as error:
            return Said(steps[0].number, _operation(str(error)), str(error))
    return None


def _operation(words: str) -> str | None:
    if found := re.search(r"Function '(\w+)' returned", words):
        return snake(found[1])
    found = re.search(r"torchlens found '(\w+?)(_\d+)*'", words)
    return OTHER_WORDS.get(found[1], found[1]) if found else None


def graded(fault: Fault, said: Said | None) -> tuple[bool | None, bool | None, bool]:
    """Step right, operation right, false alarm; None where the program asks nothing."""
    if fault.truth is None:
        return None, None, said is not None
    truth = fault.truth
    step = None if truth.step is None else said is not None and said.step == truth.step
    op = None if truth.op is None else bool(step) and said is not None and said.op in fair(truth.op)
    return step, op, False
