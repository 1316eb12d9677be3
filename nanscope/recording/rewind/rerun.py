"""Execute a step again from its tape."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from nanscope.recording.rewind.batch import Batch
from nanscope.recording.rewind.tape import Context, Event, Program, Ref, StatePlace, asks_for_closure, item_of

Within = Callable[[], AbstractContextManager[Any]]


@dataclass(slots=True)
class Rerun:
    """How a step is executed again.

    Attributes:
        without: rows of the batch that are left out; others take their places.
        axis: the dimension that they lie along.
        lr: factor of the learning rates.
        settings: of the optimizers, in place of those that they had.
        before_update: called between the backward pass and the update.
        within: entered around all but the update.
        autocast: whether autocast is on where it was.
        updates: whether the optimizers step.
        loss: of the last execution; the sum over its backward passes.
    """

    model: nn.Module
    without: Collection[int] = ()
    axis: int = 0
    lr: float = 1.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    before_update: Callable[[], None] | None = None
    within: Within = nullcontext
    autocast: bool = True
    updates: bool = True
    loss: float = 0.0
    given: Event | None = None

    def execute(self, program: Program) -> float:
        """Execute a sealed step; model, optimizers and gradients are as they were before it.

        Returns:
            The loss: the sum over the tensors given to its backward passes.
        """
        made: list[Any] = [None] * len(program.events)
        self.loss = 0.0
        for module, training in zip(self.model.modules(), program.training, strict=False):
            module.training = training
        for parameter, graded in zip(self.model.parameters(), program.graded, strict=False):
            parameter.requires_grad_(graded)
        with ExitStack() as around:
            around.enter_context(torch.enable_grad())
            around.enter_context(_sheltered(program, self.model))
            inner = around.enter_context(ExitStack())
            inner.enter_context(self.within())
            for number, event in enumerate(program.events):
                if event.optimizer is not None and asks_for_closure(event.optimizer):
                    self._step_by_closure(event, program, made, number + 1)
                    break  # it called for all that follows
                if event.optimizer is not None:
                    inner.close()
                self.given = event
                made[number] = self._run(event, program, made)
        self.given = None
        return self.loss

    def _step_by_closure(self, event: Event, program: Program, made: list[Any], start: int) -> None:
        """The update of an optimizer that calls the model itself, as LBFGS does, as often as it likes."""
        passes, optimizer = iter(_passes(program.events, start)), event.optimizer
        assert optimizer is not None

        def closure() -> Any:
            numbers = next(passes, None)
            if numbers is None:
                raise _OverError
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None
            for number in numbers:
                self.given = program.events[number]
                made[number] = self._run(program.events[number], program, made)
            return self._found(program.events[numbers[-1]].args[0], program, made)

        self._set(event)
        with suppress(_OverError):  # the step was left there, too
            optimizer.step(closure)

    def objective(self, program: Program) -> Tensor:
        """The loss of a sealed step as a tensor, up to its first backward pass."""
        made: list[Any] = []
        with _sheltered(program, self.model):
            for event in program.events:
                if event.is_backward:
                    roots = self._found(event.args[0], program, made)
                    return roots if isinstance(roots, Tensor) else sum(roots)
                made.append(None if event.optimizer is not None else self._run(event, program, made))
        raise ValueError("the step has no backward pass")

    def _run(self, event: Event, program: Program, made: list[Any]) -> Any:
        if event.optimizer is not None:
            return self._update(event) if self.updates else None
        if event.poked:
            return _poke(event.poked)
        args = self._found(event.args, program, made)
        kwargs = self._found(event.kwargs, program, made)
        if event.context is not None:
            with _as_it_was(event.context, autocast=self.autocast):
                return (event.call or self.model)(*args, **kwargs)
        assert event.call is not None
        if event.is_backward:
            self.loss += _total(args[0])
        return event.call(*args, **kwargs)

    def _update(self, event: Event) -> None:
        assert event.optimizer is not None
        if self.before_update is not None:
            self.before_update()
        self._set(event)
        event.optimizer.step()

    def _set(self, event: Event) -> None:
        """The settings of an update."""
        optimizer = event.optimizer
        assert optimizer is not None
        for group, settings in zip(optimizer.param_groups, event.settings, strict=True):
            group.update(settings)
            group.update({key: value for key, value in self.settings.items() if key in group})
            if self.lr != 1.0:
                group["lr"] = group["lr"] * self.lr

    def _found(self, value: Any, program: Program, made: list[Any]) -> Any:
        if type(value) is Ref:
            return item_of(made[value.event], value.item)
        if isinstance(value, Tensor):
            return self._left(value, program)
        if type(value) in (tuple, list):
            return type(value)(self._found(item, program, made) for item in value)
        if type(value) is dict:
            return {key: self._found(item, program, made) for key, item in value.items()}
        if self.without and is_dataclass(value) and not isinstance(value, type):
            return self._with_fields(value, program, made)
        return value

    def _with_fields(self, value: Any, program: Program, made: list[Any]) -> Any:
        """A batch as a dataclass with other rows in it."""
        found = copy.copy(value)
        for each in fields(value):
            if hasattr(value, each.name):
                object.__setattr__(found, each.name, self._found(getattr(value, each.name), program, made))
        return found

    def _left(self, tensor: Tensor, program: Program) -> Tensor:
        """A tensor from outside, with other rows in place of those that are left out: the shapes stay."""
        if id(tensor) not in program.fixed:
            return tensor
        if tensor.grad_fn is not None:  # of another model, or from before the step: its graph is gone
            tensor = tensor.detach().requires_grad_()
        return Batch(program.rows, self.axis).without(tensor, self.without) if self.without else tensor


class _OverError(Exception):
    """An optimizer calls the model once more than it did."""


def _passes(events: Sequence[Event], start: int) -> list[list[int]]:
    """Numbers of the events of each call of a closure: from a call of the model to a backward pass.

    What lies between is the optimizer's own, which makes it anew.
    """
    found: list[list[int]] = []
    over = True
    for number in range(start, len(events)):
        if over and events[number].context is not None:
            found.append([])
            over = False
        if not over:
            found[-1].append(number)
        over |= events[number].is_backward
    return [numbers for numbers in found if events[numbers[-1]].is_backward]


@contextmanager
def _sheltered(program: Program, model: nn.Module) -> Iterator[None]:
    """What the step writes into tensors from outside, such as a running mean of the user's, is undone."""
    own = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    if not any(_writes(event) for event in program.events):
        yield
        return
    with _disable_current_modes():
        others = [t for key, (t, _) in program.fixed.items() if key not in own]
        found = [t for t in others if not t.is_inference() and t.layout is torch.strided]
        kept = [(t, t._version, t.detach().clone()) for t in found]
    try:
        yield
    finally:
        with _disable_current_modes():
            for tensor, version, copy in kept:
                if tensor._version != version:
                    tensor.data.copy_(copy)
                    torch._C._autograd._unsafe_set_version_counter((tensor,), (version,))


def _writes(event: Event) -> bool:
    """Whether a function may write into what it is given, as its name says."""
    name = getattr(event.call, "__name__", "")
    inner = name.startswith("__")
    return name.startswith(("__i", "__setitem")) if inner else name.endswith("_") or "out" in event.kwargs


@torch.no_grad()
def _poke(poked: Sequence[tuple[Tensor | StatePlace, Tensor]]) -> None:
    """Write what somebody wrote from outside; it is no operation of the step."""
    with _disable_current_modes():
        for at, held in poked:
            if isinstance(at, Tensor):
                at.data.copy_(held)
                continue
            optimizer, parameter, key = at
            if key in optimizer.state[parameter]:
                optimizer.state[parameter][key].copy_(held)


def _total(roots: Any) -> float:
    tensors = [roots] if isinstance(roots, Tensor) else list(roots)
    return sum(float(t.detach()) for t in tensors if t.numel() == 1)


@contextmanager
def _as_it_was(context: Context, *, autocast: bool) -> Iterator[None]:
    torch.default_generator.set_state(context.rng)
    for generator, state in zip(torch.cuda.default_generators, context.cuda, strict=False):
        generator.set_state(state)
    if context.others is not None:
        random.setstate(context.others[0])
        np.random.set_state(context.others[1])  # noqa: NPY002 - the one that programs draw from
    with ExitStack() as stack:
        for device, dtype in context.autocast.items() if autocast else ():
            stack.enter_context(torch.autocast(device, dtype))
        yield
