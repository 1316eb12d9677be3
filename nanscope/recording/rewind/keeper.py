"""State: what a step may change, in memory; and a room where steps are executed again without a trace.

The live tensors are not written to: while a step is executed again each parameter and buffer points to a copy
(`tensor.data`), and afterwards to its own memory again, with the count of writes that it had. Graphs, views
and optimizers that hold a tensor hold it still.
"""

from __future__ import annotations

import copy
import operator
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from nanscope.recording.finite import is_finite

Generators = tuple[Tensor, tuple[Tensor, ...], object, Any]


def generators() -> Generators:
    """States of every random number generator that a program may draw from."""
    return (
        torch.default_generator.get_state(),
        tuple(g.get_state() for g in _cuda_generators()),
        random.getstate(),
        np.random.get_state(legacy=False),  # noqa: NPY002 - the one that programs draw from
    )


def set_generators(states: Generators) -> None:
    """Put the states back."""
    torch.default_generator.set_state(states[0])
    for generator, state in zip(_cuda_generators(), states[1], strict=False):
        generator.set_state(state)
    random.setstate(cast("tuple[Any, ...]", states[2]))
    np.random.set_state(states[3])  # noqa: NPY002 - as above


def _cuda_generators() -> Sequence[torch.Generator]:
    return torch.cuda.default_generators if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]


class Slot(NamedTuple):
    """A place of a module where a tensor is held by name: another may be put there in every step."""

    held: dict[str, Any]
    name: str


def slots_of(model: nn.Module) -> list[Slot]:
    """Where buffers are held, and tensors that modules keep as attributes."""
    found = []
    for module in model.modules():
        for held in (module._buffers, module.__dict__):
            found += [
                Slot(held, name)
                for name, value in held.items()
                if isinstance(value, Tensor) and not is_lazy(value)
            ]
    return found


class State:
    """Copies of the parameters, buffers, optimizer states and settings, and of the generators."""

    def __init__(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        self._take(model, optimizers)

    def renew(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        """Take the present state instead, where it has the same tensors into the same memory."""
        tensors = held(model, optimizers)
        if len(tensors) == len(self.tensors) and all(map(operator.is_, tensors, self.tensors)):
            for kept, tensor in zip(self.copies, tensors, strict=True):
                kept.copy_(tensor.detach(), non_blocking=True)
            self.slots = [(slot, slot.held[slot.name]) for slot in slots_of(model)]
            self._note(optimizers)
        else:
            self._take(model, optimizers)

    def _take(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        self.tensors = held(model, optimizers)
        self.copies = [_copied(tensor) for tensor in self.tensors]
        self.slots = [(slot, slot.held[slot.name]) for slot in slots_of(model)]
        self._note(optimizers)

    def _note(self, optimizers: Sequence[Optimizer]) -> None:
        self.optimizers = list(optimizers)  # one that is found later was not there when this was noted
        self.kept = [{p: _kept(s) for p, s in o.state.items()} for o in optimizers]
        self.settings = [[_settings(group) for group in o.param_groups] for o in optimizers]
        self.generators = generators()
        self._nonfinite: set[int] | None = None

    def nonfinite(self) -> set[int]:
        """Which parameters and buffers, by id, held a NaN or an infinity."""
        if self._nonfinite is None:
            self._nonfinite = nonfinite(zip(map(id, self.tensors), self.copies, strict=True))
        return self._nonfinite

    def add(self, optimizer: Optimizer) -> None:
        """An optimizer that was not known: it has not stepped since, so it is as it was."""
        self.optimizers = [*self.optimizers, optimizer]
        self.kept.append({p: _kept(s) for p, s in optimizer.state.items()})
        self.settings.append([_settings(group) for group in optimizer.param_groups])

    def replace(self, tensors: Mapping[int, Tensor], slots: list[tuple[Slot, Tensor]]) -> None:
        """Some tensors, by id, were otherwise before the step, or others held their places."""
        known = set(map(id, self.tensors))
        self.slots = slots
        for _, tensor in slots:
            if id(tensor) not in known:
                self.tensors.append(tensor)
                self.copies.append(tensors[id(tensor)])
        self.copies = [tensors.get(id(t), c) for t, c in zip(self.tensors, self.copies, strict=True)]
        self._nonfinite = None

    @property
    def bytes(self) -> int:
        """Memory that the copies take."""
        states = [v for o in self.kept for s in o.values() for v in s.values() if isinstance(v, _Kept)]
        return sum(t.nbytes for t in self.copies) + sum(v.tensor.nbytes for v in states)

    @torch.no_grad()
    def put(self) -> None:
        """Let the live tensors and optimizers have this state; only within a `room`."""
        for slot, tensor in self.slots:
            slot.held[slot.name] = tensor
        for tensor, kept in zip(self.tensors, self.copies, strict=True):
            tensor.data = kept.to(tensor.device, copy=True)
        for optimizer, states, settings in zip(self.optimizers, self.kept, self.settings, strict=True):
            optimizer.state.clear()
            optimizer.state.update({p: _given(state) for p, state in states.items()})
            for group, values in zip(optimizer.param_groups, settings, strict=True):
                group.update(_given(values))
        set_generators(self.generators)


@contextmanager
def room(model: nn.Module, optimizers: Sequence[Optimizer]) -> Iterator[None]:
    """Whatever happens to model, optimizers, gradients and generators within is undone at the end."""
    tensors = held(model, optimizers)
    before = [(t, t.data, t._version, t.grad, t.requires_grad) for t in tensors]
    modules = [(m, dict(m.__dict__), dict(m._parameters), dict(m._buffers)) for m in model.modules()]
    states = [(o, dict(o.state), [_shallow(g) for g in o.param_groups]) for o in optimizers]
    drawn, grad_mode = generators(), torch.is_grad_enabled()
    try:
        yield
    finally:
        for module, attributes, parameters, buffers in modules:
            _refill(module.__dict__, attributes)
            _refill(module._parameters, parameters)
            _refill(module._buffers, buffers)
        for tensor, data, version, grad, requires_grad in before:
            tensor.data = data
            tensor.grad = grad
            if tensor.is_leaf and tensor.requires_grad != requires_grad:
                tensor.requires_grad_(requires_grad)
            torch._C._autograd._unsafe_set_version_counter((tensor,), (version,))
        for optimizer, state, groups in states:
            optimizer.state.clear()
            optimizer.state.update(state)
            for group, settings in zip(optimizer.param_groups, groups, strict=True):
                group.update(settings)
        torch.set_grad_enabled(grad_mode)
        set_generators(drawn)


def held(model: nn.Module, optimizers: Sequence[Optimizer]) -> list[Tensor]:
    """Every parameter and buffer, once; also parameters that only an optimizer has."""
    inner = (slot.held[slot.name] for slot in slots_of(model))
    found: dict[int, Tensor] = {id(t): t for t in (*model.parameters(), *model.buffers(), *inner)}
    for optimizer in optimizers:
        found |= {id(p): p for group in optimizer.param_groups for p in group["params"]}
    return [
        t
        for t in found.values()
        if not is_lazy(t)
        and t.layout is torch.strided
        and not t.is_meta
        and (t.is_leaf or not t.requires_grad)
    ]


@torch.no_grad()
def nonfinite(tensors: Iterable[tuple[int, Tensor]]) -> set[int]:
    """Which of the tensors, by the numbers that come with them, hold a NaN or an infinity."""
    return {number for number, tensor in tensors if not is_finite(tensor)}


@torch.no_grad()
def meant_infinities(model: nn.Module) -> set[int]:
    """Ids of the buffers that hold infinities before anything has run, such as an attention mask."""
    buffers = {id(buffer): buffer for buffer in model.buffers() if not is_lazy(buffer)}
    infinite = nonfinite(buffers.items())
    return {number for number in infinite if not bool(torch.isnan(buffers[number]).any())}


def _refill(live: dict[str, Any], before: dict[str, Any]) -> None:
    for key in live.keys() - before.keys():
        del live[key]
    live.update(before)


def _copied(tensor: Tensor) -> Tensor:
    """A copy, on the host if the tensor lives on a device: there memory is dear."""
    if not tensor.is_cuda:
        return tensor.detach().clone()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor.detach(), non_blocking=True)


def _shallow(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key != "params"}


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return cast("dict[str, Any]", _kept(_shallow(group)))


class _Kept(NamedTuple):
    """A copy, and where the tensor lives."""

    tensor: Tensor
    device: torch.device


def _kept(value: Any) -> Any:
    """Nested values with copies of their tensors."""
    if isinstance(value, Tensor):
        return _Kept(_copied(value), value.device)
    return _mapped(value, _kept)


def _given(value: Any) -> Any:
    """The same with live tensors instead of the copies, made anew each time."""
    if isinstance(value, _Kept):
        return value.tensor.to(value.device, copy=True)
    return _mapped(value, _given)


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {key: change(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(change(item) for item in value)
    return copy.copy(value)
