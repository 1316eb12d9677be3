"""Probes: forward hooks on the watched modules and tensor hooks on their outputs.

A probe collects references. Measured inside a hook is only what cannot wait: a tensor too large to be kept
alive, or one that something else writes into before the step ends. What was collected belongs to a pass: one
call of the root module with autograd on.

These functions run dozens of times in a step of a few hundred microseconds, with the caches full of weights:
they are flat closures on purpose, and what they collect are tuples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nanscope.recording import factors, stats
from nanscope.recording.places import Places

# One norm of a larger tensor is nothing beside the arithmetic that made it, and keeping it alive until the
# backward pass is over would raise the peak memory.
KEPT_ELEMENTS = 65_536
MOST_RETAINED = 4_096  # outputs, when a step has very many microsteps

Fail = Callable[[Exception], None]


@dataclass(slots=True, eq=False)
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


@dataclass(slots=True, eq=False)
class Retained:
    """A small output that retains its gradient (no Python in the backward); `seen` is what it had before."""

    place: int
    output: Tensor
    of: Pass
    seen: Tensor | None = None

    def fresh(self) -> Tensor | None:
        """The gradient that arrived since the last look; a graph may be gone through twice."""
        gradient, before = self.output.grad, self.seen
        if gradient is None or gradient is before:
            return None
        self.seen = gradient
        return gradient if before is None else gradient - before


Kept = tuple[int, Tensor, int, Pass]
"""A tensor at a place, the count of writes into it when it was seen, and the pass that it belongs to."""


@dataclass(slots=True)
class Measured:
    """A tensor at a place that could not wait: its norm, and its largest absolute value on a close look.

    `maxima` are the largest values of its units, if these can die; `exact` is there if the norm is not finite
    (on the CPU, where looking costs no synchronisation).
    """

    place: int
    of: Pass
    dtype: torch.dtype
    norm: Tensor
    peak: Tensor | None = None
    maxima: Tensor | None = None
    exact: stats.Exact | None = None


@dataclass(slots=True)
class LinearCall:
    """A Linear layer called on one row of `entering`; `place` is that of the gradient of `output`."""

    weight: Tensor
    bias: Tensor | None
    entering: Tensor
    version: int
    place: int
    of: Pass


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

    Args:
        fail: takes an error of a hook's own; nothing is ever raised into the model.
        pause: called when the root is called without autograd: an evaluation.
        renew: called, while `stale`, when the root is called: gives other probes in place of these, if they
            have to be replaced.
        logits: name of the module that returns the logits, None for the root.

    Attributes:
        kept, measured: inputs, outputs and gradients of outputs, each in the order of execution.
        passes: finished calls of the root.
        linears: calls whose weight gradient may be had from its factors.
        hasty: places whose tensors are overwritten before the step ends. None (at the start) means every
            place: the first step finds out which ones.
        stale: whether the model may have got other modules or parameters.
        closely: whether the largest absolute values are wanted in this step.
        active: whether anything is collected at all.
    """

    def __init__(
        self,
        model: nn.Module,
        places: Places,
        *,
        fail: Fail,
        pause: Callable[[], None],
        renew: Callable[[], Probes | None],
        logits: str | None = None,
    ) -> None:
        self._places = places
        self._fail = fail
        self._pause = pause
        self._renew = renew
        self._logits = None if logits is None else places.outputs[logits]
        self._handles: list[RemovableHandle] = []
        self._autograd: bool | None = None  # inside a call of the root: was autograd on when it began?
        self.hasty: set[int] | None = None
        self.stale = False
        self.closely = True
        self.in_backward = False
        self.active = True
        self.clear()
        self._attach(model)

    def clear(self) -> None:
        """Forget what was collected: a step is over."""
        self.clear_passes()
        self.retained: list[Retained] = []

    def clear_passes(self) -> None:
        """Forget all but the outputs that a second backward pass may still reach."""
        self._pass = self._first = Pass()
        self.kept: list[Kept] = []
        self.measured: list[Measured] = []
        self.passes: list[Pass] = []
        self.linears: list[LinearCall] = []
        self._on_tensors: list[RemovableHandle] = []

    def end_step(self) -> None:
        """Forget everything of an ended step."""
        self.retained = []
        if self.passes or not self.empty:  # else the last measurement has cleared it
            self.clear_passes()

    def remove(self) -> None:
        """Take every hook off the model and off the tensors of an unfinished step."""
        self.active = False
        for handle in (*self._handles, *self._on_tensors):
            handle.remove()
        self._handles = []
        self.clear()

    def harvest(self) -> None:
        """Collect the gradients that the last backward pass left in the outputs."""
        for retained in self.retained:
            gradient = retained.fresh()
            if gradient is not None:
                retained.of.reached = True
                self.kept.append((retained.place, gradient, gradient._version, retained.of))
        del self.retained[:-MOST_RETAINED]

    @property
    def empty(self) -> bool:
        """Whether nothing was collected."""
        return not (self.kept or self.measured)

    @property
    def reached(self) -> bool:
        """Whether a backward pass went through anything that was collected."""
        return any(kept[3].reached for kept in self.kept) or any(m.of.reached for m in self.measured)

    @property
    def overwritten(self) -> set[int]:
        """Places whose tensors were written into since they were seen."""
        return {place for place, tensor, version, _ in self.kept if tensor._version != version}

    def _attach(self, model: nn.Module) -> None:
        enter = model.register_forward_pre_hook(self._enter, prepend=True, with_kwargs=True)
        self._handles.append(enter)
        for name, module in self._places.modules.items():
            places = self._places.outputs[name], self._places.gradients[name]
            self._handles.append(module.register_forward_hook(self._probe(*places, module)))
        self._handles.append(model.register_forward_hook(self._leave))

    def _enter(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.in_backward or not self.active:
            return
        try:
            if self.stale and (other := self._renew()) is not None:
                other._enter(model, args, kwargs)
                return
            self._autograd = torch.is_grad_enabled()
            if self._autograd:
                self._begin(model, (*args, *kwargs.values()))
            else:
                self._pause()
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not reach the training
            self._fail(error)

    def _begin(self, model: nn.Module, entering: tuple[Any, ...]) -> None:
        if not model.training and not self._pass.reached:
            self._drop(self._pass)  # the pass before was an evaluation that forgot no_grad
        self._pass = Pass(next((t.shape[0] for t in entering if isinstance(t, Tensor) and t.dim()), 0))
        if self.empty:
            self._first = self._pass
        for value in entering:
            plain = type(value) is Tensor and value.is_floating_point() and value.numel()
            for tensor in (value,) if plain else tensors_in(value):
                self._see(self._places.entry, tensor, self._pass)

    def _leave(self, _model: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        if not self.active or self.in_backward:
            return
        try:
            if self._autograd:
                self._pass.node = getattr(output, "grad_fn", None)
                if self._logits is None:
                    self._keep_logits(output)
                self.passes.append(self._pass)
            self._autograd = None
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not reach the training
            self._fail(error)

    def _keep_logits(self, output: Any) -> None:
        if type(output) is not Tensor or not output.is_floating_point():
            return
        dimensions = output.dim()
        if dimensions < 2 or output.shape[-1] < 2 or (dimensions > 2 and self._logits is None):
            return
        self._pass.logits = output.detach() if dimensions == 2 else output.detach().flatten(0, -2)
        self._pass.version = output._version

    def _probe(self, out: int, back: int, module: nn.Module) -> Callable[..., None]:
        """The forward hook of one module; `out` the place of its output, `back` of that one's gradient."""
        linear = factors.plain_linear(module)
        arrive = self._arrival(back)

        def probe(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if not self.active:
                return
            watching = self._autograd
            if not (torch.is_grad_enabled() if watching is None else watching):
                return
            try:
                if out == self._logits and not self.in_backward:
                    self._keep_logits(output)
                plain = type(output) is Tensor and output.is_floating_point() and output.numel()
                for tensor in (output,) if plain else tensors_in(output):
                    if not self.in_backward:  # a checkpoint that runs its forward again adds no output
                        self._see(out, tensor, self._pass)
                    if tensor.requires_grad and tensor.grad_fn is not None:
                        self._expect(out, back, tensor, arrive)
                        if linear and not self.in_backward and factors.one_row(module, args, tensor):
                            x = args[0]
                            call = (module.weight, module.bias, x, x._version, back, self._pass)
                            self.linears.append(LinearCall(*call))  # type: ignore[arg-type]
            except Exception as error:  # noqa: BLE001 - whatever it is, it must not reach the training
                self._fail(error)

        return probe

    def _expect(self, out: int, back: int, output: Tensor, arrive: Callable[[Tensor], None]) -> None:
        """Arrange for the gradient of an output to be collected."""
        if self._can_retain(out, back, output):
            output.retain_grad()
            self.retained.append(Retained(back, output, self._pass))
        else:
            hook = arrive if self._pass is self._first else self._arrival(back, self._pass)
            self._on_tensors.append(output.register_hook(hook))  # type: ignore[no-untyped-call]

    def _can_retain(self, out: int, back: int, tensor: Tensor) -> bool:
        """Whether the gradient may wait in the tensor: small, never written into, not the user's already."""
        hasty = self.hasty
        if hasty is None or out in hasty or back in hasty or tensor.numel() > KEPT_ELEMENTS:
            return False
        return not self.in_backward and not tensor.retains_grad

    def _arrival(self, place: int, of: Pass | None = None) -> Callable[[Tensor], None]:
        """A tensor hook for the gradient of an output; without `of`, for the first pass of a step."""

        def arrive(gradient: Tensor) -> None:
            if not self.active:
                return
            try:
                arrived_at = of or self._first
                arrived_at.reached = True
                self._see(place, gradient, arrived_at)
            except Exception as error:  # noqa: BLE001 - whatever it is, it must not reach the training
                self._fail(error)

        return arrive

    def _see(self, place: int, tensor: Tensor, of: Pass) -> None:
        hasty = self.hasty
        if hasty is None or place in hasty or tensor.numel() > KEPT_ELEMENTS:
            self.measured.append(self._measure(place, tensor, of))
            if hasty is not None or tensor.numel() > KEPT_ELEMENTS:
                return
        self.kept.append((place, tensor, tensor._version, of))

    def _measure(self, place: int, tensor: Tensor, of: Pass) -> Measured:
        values = stats.strided(tensor.detach())
        seen = Measured(place, of, tensor.dtype, stats.norms([values])[0])
        if self.closely and place in self._places.peaked:
            seen.peak = stats.peaks([values])[0]
        if place in self._places.rectified:
            seen.maxima = stats.unit_maxima(values)
        if not tensor.is_cuda and not seen.norm.isfinite():
            seen.exact = stats.examine(values)
        return seen

    def _drop(self, stale: Pass) -> None:
        self.kept = [kept for kept in self.kept if kept[3] is not stale]
        self.measured = [m for m in self.measured if m.of is not stale]
        self.passes = [p for p in self.passes if p is not stale]
        self.linears = [call for call in self.linears if call.of is not stale]
