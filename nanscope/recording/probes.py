"""Probes: what happens at each call of a watched module, and when the gradient of its output arrives.

A probe collects references. Measured at once is only what cannot wait: a tensor too large to be kept alive,
or one that something else writes into before the step ends. What was collected belongs to a pass: one call
of the root module with autograd on.

These functions run dozens of times in a step of a few hundred microseconds, with the caches full of weights:
every line of code touched costs more than what it does. Hence flat closures and tuples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nanscope.recording import calls, factors, stats
from nanscope.recording.calls import Leave, Watcher
from nanscope.recording.collected import Collected
from nanscope.recording.compiled import is_transformed
from nanscope.recording.passes import OURS, Measured, Pass, await_gradient, tensors_in
from nanscope.recording.places import Places

# One norm of a larger tensor is nothing beside the arithmetic that made it, and keeping it alive until the
# backward pass is over would raise the peak memory.
KEPT_ELEMENTS = 65_536

Fail = Callable[[Exception], None]


class Probes(Collected):
    """The probes of one model, and what they have collected.

    Args:
        fail: takes an error of a probe's own; nothing is ever raised into the model.
        pause: called when the root is called without autograd: an evaluation.
        renew: called, while `stale`, when the root is called: gives other probes in place of these, if they
            have to be replaced.
        logits: name of the module that returns the logits, None for the root.

    Attributes:
        stale: whether the model may have got other modules or parameters.
        closely: whether the largest absolute values are wanted in this step.
        counts_units: whether it is wanted which units are active.
        before: called before the root is, with autograd on.
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
        super().__init__(model, places)
        self._fail = fail
        self._pause = pause
        self._renew = renew
        self._logits = None if logits is None else places.outputs[logits]
        self._autograd: bool | None = None  # inside a call of the root: was autograd on when it began?
        self.stale = True  # it may have been materialised or moved since it was looked through
        self.closely = True
        self.counts_units = True
        self.before: Callable[[], None] | None = None
        self.active = True
        self._watchers = self._made(model)
        self.attach()

    def remove(self) -> None:
        """Stop, and take every hook off the tensors of an unfinished step."""
        self.active = False
        self.detach()
        for handle in self._handles:
            handle.remove()
        self.unfold()
        for _, output, *_ in (call for each in self.passes for call in each.calls):
            if output._backward_hooks is not None:
                output._backward_hooks.pop(OURS, None)
        self.clear()

    def attach(self) -> None:
        """Be told about calls of modules."""
        calls.watch(self._watchers)

    def detach(self) -> None:
        """Be told no more."""
        calls.unwatch(self._watchers)

    # -- the root -------------------------------------------------------------------------------------

    def _made(self, model: nn.Module) -> dict[int, Watcher]:
        made = {
            id(each): Watcher(leave=self._probe(name, each)) for name, each in self._places.modules.items()
        }
        own = made.get(id(model), Watcher())
        return made | {id(model): Watcher(self._enter, self._leaving(own.leave))}

    def _enter(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if self.in_backward or not self.active:
            return
        try:
            if is_transformed():
                self._autograd, self._current, self.transformed = False, None, True
                return
            if self.stale and (other := self._renew()) is not None:
                other._enter(model, args, kwargs)
                return
            self._autograd = torch.is_grad_enabled()
            if self._autograd:
                if self.before is not None:
                    self.before()
                self._begin((*args, *kwargs.values()) if kwargs else args)
            else:
                self._current = None
                self._pause()
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not reach the training
            self._fail(error)

    def _begin(self, entering: tuple[Any, ...]) -> None:
        usual, routine = self.usual, self.routine
        if routine is not None and not (self.closely or usual.begun or self.odd):
            self._current, self._waits = usual, routine.waits
            usual.begun, rows = True, -1
            for value in entering:
                if type(value) is Tensor and value.is_floating_point() and 0 < value.numel() <= KEPT_ELEMENTS:
                    usual.entering.append(value)
                    usual.written.append(value._version)
                else:
                    self._let_in(value, usual.entering, usual.written)
                if rows < 0 and isinstance(value, Tensor) and value.dim():
                    rows = value.shape[0]
            usual.rows = max(0, rows)
            return
        self.unfold()
        one = self._pass if self._pass.untouched else self._next()
        one.rows = next((t.shape[0] for t in entering if isinstance(t, Tensor) and t.dim()), 0)
        for value in entering:
            self._let_in(value, one.entering, one.written)

    def _let_in(self, value: Any, entering: list[Tensor], written: list[int]) -> None:
        for tensor in tensors_in(value):
            if self._keeps(self._places.entry, tensor, self._pass):
                entering.append(tensor)
                written.append(tensor._version)

    def _leaving(self, own: Leave | None) -> Leave:
        def leave(args: tuple[Any, ...], output: Any) -> None:
            if own is not None:
                own(args, output)
            if not self.active or self.in_backward:
                return
            try:
                current = self._current
                if current is not None and not current.outs:
                    self.unfold()  # compiled since the last pass: nothing inside was seen
                    current = None
                if current is not None:
                    current.returned = output
                elif self._autograd:
                    self._pass.node = getattr(output, "grad_fn", None)
                    if self._logits is None:
                        self._keep_logits(output)
                    if not self._pass.calls and not self._pass.measured_outputs(self._places.entry):
                        self._reach_by(output)
                self._autograd = self._current = None
            except Exception as error:  # noqa: BLE001 - whatever it is, it must not reach the training
                self._fail(error)

        return leave

    def _reach_by(self, output: Any) -> None:
        """Nothing inside was seen, as of a compiled model: its output tells whether a gradient arrives."""
        self.odd = True
        for tensor in (output,) if isinstance(output, Tensor) else tensors_in(output):  # of no row, too
            if tensor.requires_grad:
                arrive = self._touch(self._pass)
                self._handles.append(tensor.register_hook(arrive))  # type: ignore[no-untyped-call]

    @staticmethod
    def _touch(one: Pass) -> Callable[[Tensor], None]:
        def touch(_gradient: Tensor) -> None:
            one.touched = True

        return touch

    def _keep_logits(self, output: Any) -> None:
        if type(output) is not Tensor or not output.is_floating_point():
            return
        dimensions = output.dim()
        if dimensions < 2 or output.shape[-1] < 2 or (dimensions > 2 and self._logits is None):
            return
        self._pass.logits, self._pass.version = output, output._version

    # -- the modules ----------------------------------------------------------------------------------

    def _probe(self, name: str, module: nn.Module) -> Leave:
        """What to do when this module has been called."""
        out, back = self._places.outputs[name], self._places.gradients[name]
        linear = module if factors.plain_linear(module) else None

        def leave(args: tuple[Any, ...], output: Any) -> None:
            current = self._current
            try:
                if current is None or type(output) is not Tensor:
                    self._look(out, back, linear, args, output)
                    return
                waits = self._waits.get(out)
                if waits is None:
                    self._look(out, back, linear, args, output)
                    return
                current.outs.append(out)
                current.kept.append(output)
                current.fed.append(args)
                if waits:
                    arrived: list[Tensor] = []
                    current.arrived.append(arrived)
                    await_gradient(output, arrived)
            except Exception as error:  # noqa: BLE001 - whatever it is, it must not reach the training
                self._fail(error)

        return leave

    def _look(
        self, out: int, back: int, linear: nn.Linear | None, args: tuple[Any, ...], output: Any
    ) -> None:
        """The same for a call that is not usual in some way."""
        watching = self._autograd
        if not self.active or not (torch.is_grad_enabled() if watching is None else watching):
            return
        if watching is None and is_transformed():
            return
        self.odd = True
        if self._pass.spent and not self.in_backward:
            self._next()
        if out == self._logits and not self.in_backward:
            self._keep_logits(output)
        plain = type(output) is Tensor and output.is_floating_point() and output.numel()
        for tensor in (output,) if plain else tensors_in(output):
            # a checkpoint that runs its forward again adds no output
            kept = not self.in_backward and self._keeps(out, tensor, self._pass)
            awaited = tensor.requires_grad and tensor.grad_fn is not None
            if kept:
                self._keep(out, back, tensor, linear, args)
            if awaited and (not kept or back in (self.hasty or ())):
                arrive = self._arrival(back, self._pass)
                self._handles.append(tensor.register_hook(arrive))

    def _keep(
        self, out: int, back: int, tensor: Tensor, linear: nn.Linear | None, args: tuple[Any, ...]
    ) -> None:
        arrived: list[Tensor] = []
        calls = self._pass.calls
        calls.append((out, tensor, tensor._version, back, arrived))
        if tensor.requires_grad and tensor.grad_fn is not None and back not in (self.hasty or ()):
            self._handles.append(tensor.register_hook(arrived.append))  # type: ignore[no-untyped-call]
            if linear is not None and args:
                self._pass.linears.append((len(calls) - 1, linear, args[0], args[0]._version))

    def _keeps(self, place: int, tensor: Tensor, of: Pass) -> bool:
        """Whether a tensor can be kept until the backward pass is over; if not, it is measured now."""
        hasty = self.hasty
        if hasty is not None and place not in hasty and tensor.numel() <= KEPT_ELEMENTS:
            return True
        of.measured.append(self._measure(place, tensor))
        if hasty is None and tensor.numel() <= KEPT_ELEMENTS:
            of.checked.append((place, tensor, tensor._version))
        return False

    def _arrival(self, place: int, of: Pass) -> Callable[[Tensor], None]:
        """A tensor hook for the gradient of an output that is to be measured as it arrives."""

        def arrive(gradient: Tensor | None) -> None:
            if gradient is None or not self.active or is_transformed():  # None: of gradcheck
                return
            try:
                of.touched = True
                of.measured.append(self._measure(place, gradient))
                if self.hasty is None and gradient.numel() <= KEPT_ELEMENTS:
                    of.checked.append((place, gradient, gradient._version))
            except Exception as error:  # noqa: BLE001 - whatever it is, it must not reach the training
                self._fail(error)

        return arrive

    def _measure(self, place: int, tensor: Tensor) -> Measured:
        values = stats.strided(tensor.detach())
        seen = Measured(place, tensor.dtype, stats.norms([values])[0])
        if self.closely and place in self._places.peaked:
            seen.peak = stats.peaks([values])[0]
        if self.counts_units and place in self._places.rectified:
            seen.maxima = stats.unit_maxima(values)
        if not tensor.is_cuda and not math.isfinite(seen.norm.item()):
            seen.exact = stats.examine(values)
        return seen
