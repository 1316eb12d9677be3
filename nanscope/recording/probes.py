"""Probes: forward hooks on the watched modules and tensor hooks on their outputs.

A probe collects references. Measured inside a hook is only what cannot wait: a tensor too large to be kept
alive, or one that something else writes into before the step ends. What was collected belongs to a pass: one
call of the root module with autograd on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nanscope.recording import factors, stats
from nanscope.recording.places import Places

# One norm of a larger tensor is nothing beside the arithmetic that made it, and keeping it alive until the
# backward pass is over would raise the peak memory.
KEPT_ELEMENTS = 65_536

Guard = Callable[[Callable[..., None]], Callable[..., None]]


@dataclass(slots=True)
class Pass:
    """One call of the root module; `reached` once a gradient arrived at any of its outputs.

    `logits` is a (rows, classes) tensor that the call returned, or that the named module returned within it;
    `version` counts the writes into it; `node` is the autograd node of what the call returned.
    """

    rows: int = 0
    reached: bool = False
    logits: Tensor | None = None
    version: int = 0
    node: Any = None

    @property
    def has_logits(self) -> bool:
        """Whether there are logits, still as the model returned them."""
        return self.logits is not None and self.logits._version == self.version


@dataclass(slots=True)
class Sighting:
    """A tensor at a place; `norm`, `peak` (largest absolute value), `live` (units) if it could not wait.

    `version` counts the writes into the tensor until now.
    """

    place: int
    of: Pass
    tensor: Tensor | None
    version: int
    dtype: torch.dtype
    norm: Tensor | None = None
    peak: Tensor | None = None
    live: Tensor | None = None
    exact: stats.Exact | None = None

    @property
    def usable(self) -> bool:
        """Whether its numbers are there, or can still be had from the tensor."""
        return self.norm is not None or not self.overwritten

    @property
    def overwritten(self) -> bool:
        """Whether something wrote into the tensor since the hook saw it: it must not be measured now."""
        return self.tensor is not None and self.tensor._version != self.version


@dataclass(slots=True)
class LinearCall:
    """A Linear layer called on one row: its input, and in time the gradient of its output."""

    weight: Tensor
    entering: Tensor
    version: int
    output: Tensor
    of: Pass
    arrived: Tensor | None = None

    @property
    def sound(self) -> bool:
        """Whether input and arrived gradient still are what the layer's backward multiplied."""
        alone = self.output._backward_hooks is None or len(self.output._backward_hooks) == 1
        return self.arrived is not None and alone and self.entering._version == self.version


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every non-empty floating or complex tensor in nested tuples, lists, dicts and dataclasses."""
    if isinstance(value, Tensor):
        if (value.is_floating_point() or value.is_complex()) and value.numel():
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors_in(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from tensors_in(getattr(value, field.name))


class Probes:
    """The hooks on one model, and what they have collected since `clear`.

    Attributes:
        seen: inputs, outputs and gradients of outputs, in the order of execution.
        passes: finished calls of the root.
        linears: calls whose weight gradient may be had from its factors.
        hasty: places whose tensors are overwritten before the step ends; measured in the hook. None (at the
            start) means every place: the first step finds out which ones.
        closely: whether the largest absolute values are wanted in this step.
    """

    def __init__(self, model: nn.Module, places: Places, guard: Guard, logits: str | None = None) -> None:
        self._places = places
        self._logits = None if logits is None else places.outputs[logits]
        self._arrive_guarded = guard(self._arrive)
        self._handles: list[RemovableHandle] = []
        self._autograd: bool | None = None  # inside a call of the root: was autograd on when it began?
        self.hasty: set[int] | None = None
        self.closely = True
        self.in_backward = False
        self.clear()
        self._attach(model, guard)

    def clear(self) -> None:
        """Forget what was collected."""
        self._pass = Pass()
        self.seen: list[Sighting] = []
        self.passes: list[Pass] = []
        self.linears: list[LinearCall] = []
        self._on_tensors: list[RemovableHandle] = []

    def remove(self) -> None:
        """Take every hook off the model and off the tensors of an unfinished step."""
        for handle in (*self._handles, *self._on_tensors):
            handle.remove()
        self._handles = []
        self.clear()

    def _attach(self, model: nn.Module, guard: Guard) -> None:
        enter = model.register_forward_pre_hook(guard(self._enter), prepend=True, with_kwargs=True)
        self._handles.append(enter)
        leave = guard(self._leave_module)
        for name, module in self._places.modules.items():
            places = (self._places.outputs[name], self._places.gradients[name])
            self._handles.append(module.register_forward_hook(functools.partial(leave, places)))
        self._handles.append(model.register_forward_hook(guard(self._leave)))

    def _enter(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.in_backward:
            return
        self._autograd = torch.is_grad_enabled()
        if not self._autograd:
            return
        if not model.training and not self._pass.reached:
            self._drop(self._pass)  # the pass before was an evaluation that forgot no_grad
        entering = (*args, *kwargs.values())
        rows = next((t.shape[0] for t in entering if isinstance(t, Tensor) and t.dim()), 0)
        self._pass = Pass(rows)
        for tensor in tensors_in(entering):
            self._see(self._places.entry, tensor, self._pass)

    def _leave(self, _model: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        if self._autograd and not self.in_backward:
            self._pass.node = getattr(output, "grad_fn", None)
            if self._logits is None:
                self._keep_logits(output)
            self.passes.append(self._pass)
        self._autograd = None

    def _keep_logits(self, output: Any) -> None:
        named = self._logits is not None
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return
        if output.dim() < 2 or output.shape[-1] < 2 or not output.numel() or (output.dim() > 2 and not named):
            return
        self._pass.logits = output.detach().reshape(-1, output.shape[-1])
        self._pass.version = output._version

    def _leave_module(
        self, places: tuple[int, int], module: nn.Module, args: tuple[Any, ...], output: Any
    ) -> None:
        if not (torch.is_grad_enabled() if self._autograd is None else self._autograd):
            return
        if places[0] == self._logits and not self.in_backward:
            self._keep_logits(output)
        for tensor in tensors_in(output):
            if not self.in_backward:  # a checkpoint that runs its part of the forward again adds no output
                self._see(places[0], tensor, self._pass)
            if tensor.requires_grad and tensor.grad_fn is not None:
                linear = self._linear(module, args, tensor)
                hook = functools.partial(self._arrive_guarded, places[1], self._pass, linear)
                self._on_tensors.append(tensor.register_hook(hook))  # type: ignore[no-untyped-call]

    def _linear(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> LinearCall | None:
        if self.in_backward or not factors.worthwhile(module, args, output):
            return None
        weight, entering = cast("Tensor", module.weight), args[0]
        call = LinearCall(weight, entering, entering._version, output, self._pass)
        self.linears.append(call)
        return call

    def _arrive(self, place: int, of: Pass, linear: LinearCall | None, gradient: Tensor) -> None:
        of.reached = True
        self._see(place, gradient, of)
        if linear is not None:
            linear.arrived = gradient

    def _see(self, place: int, tensor: Tensor, of: Pass) -> None:
        seen = Sighting(place, of, tensor, tensor._version, tensor.dtype)
        if self.hasty is None or place in self.hasty or tensor.numel() > KEPT_ELEMENTS:
            self._measure_now(seen, tensor)
        self.seen.append(seen)

    def _measure_now(self, seen: Sighting, tensor: Tensor) -> None:
        values = stats.strided(tensor)
        seen.norm = stats.norms([values])[0]
        if self.closely:
            seen.peak = stats.norms([values], float("inf"))[0]
        if seen.place in self._places.rectified:
            seen.live = stats.live_units(values)
        if not tensor.is_cuda and not seen.norm.isfinite():  # on the CPU a look costs no synchronisation
            seen.exact = stats.examine(values)
        if self.hasty is not None or tensor.numel() > KEPT_ELEMENTS:
            seen.tensor = None

    def _drop(self, stale: Pass) -> None:
        self.seen = [s for s in self.seen if s.of is not stale]
        self.passes = [p for p in self.passes if p is not stale]
        self.linears = [c for c in self.linears if c.of is not stale]
