"""Watch one step of a small training, from a sound state."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from nanscope.recording.rewind.inquiry import clear_gradients
from nanscope.recording.rewind.keeper import State, room
from nanscope.recording.rewind.watch import watch

Step = Callable[[], object]
Data = dict[str, Any]


def birth_in(
    step: Step,
    model: nn.Module | None = None,
    optimizers: Sequence[Optimizer] = (),
    *,
    inputs: Sequence[Tensor] = (),
    targets: Sequence[Tensor] = (),
    rows: int = 0,
) -> Data | None:
    """What is found in a step, None if nothing does harm; everything is put back."""
    model = nn.Identity() if model is None else model
    with room(model, optimizers):
        state = State(model, optimizers)

        def again() -> None:
            state.put()
            clear_gradients(model, optimizers)

        again()
        birth = watch(step, model, optimizers, inputs=inputs, targets=targets, rows=rows, again=again)
        return None if birth is None else birth.data


def of_loss(loss: Callable[[Tensor], Tensor], weight: Sequence[Any] | Tensor, rows: int = 0) -> Data | None:
    """What is found in the loss of one parameter `weight`, its gradient, and one step of SGD."""
    model = nn.ParameterDict({"weight": nn.Parameter(torch.as_tensor(weight))})
    optimizer = SGD(model.parameters(), lr=0.1)

    def step() -> None:
        loss(model["weight"]).backward()
        optimizer.step()

    return birth_in(step, model, [optimizer], rows=rows)


def line_of(function: Callable[..., Any], text: str) -> int:
    """Number of the first line of a function that holds a text."""
    lines, first = inspect.getsourcelines(function)
    return first + next(i for i, line in enumerate(lines) if text in line)
