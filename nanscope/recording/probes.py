"""Probes: what happens at each call of a watched module, and when the gradient of its output arrives.

A probe collects references. Measured at once is only what cannot wait: a tensor too large to be kept alive,
or one that something else writes into before the step ends. What was collected belongs to a pass: one call
of the root module with autograd on.

These functions run dozens of times in a step of a few hundred microseconds, with the caches full of weights:
every line of code touched costs more than what it does. Hence flat closures and tuples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nanscope.recording import calls, factors, stats
from nanscope.recording.calls import Leave, Watcher
from nanscope.recording.compiled import is_transformed
from nanscope.recording.passes import OURS, Measured, Pass, UsualPass, await_gradient, tensors_in
from nanscope.recording.places import Places
from nanscope.recording.routine import Routine

# One norm of a larger tensor is nothing beside the arithmetic that made it, and keeping it alive until the
# backward pass is over would raise the peak memory.
KEPT_ELEMENTS = 65_536
MOST_PASSES = 64  # whose graph a second backward pass may still go through, when a step has very many

Fail = Callable[[Exception], None]


class Probes:
    """The probes of one model, and what they have collected since `clear`.

    Args:
        fail: takes an error of a probe's own; nothing is ever raised into the model.
        pause: called when the root is called without autograd: an evaluation.
        renew: called, while `stale`, when the root is called: gives other probes in place of these, if they
            have to be replaced.
        logits: name of the module that returns the logits, None for the root.

    Attributes:
        passes: calls of the root, also that under way; calls of modules outside of it are one more.
        hasty: places whose tensors are overwritten before the step ends. None (at the start) means every
            place: the first step finds out which ones.
        usual: what was collected of a pass that goes as the one before, instead of a `Pass`.
        routine: how that one went; None if the next pass is to be looked at in the long way.
        odd: whether something has happened that the routine does not know.
        stale: whether the model may have got other modules or parameters.
        transformed: whether the root was called in this step where tensors hold no numbers.
        closely: whether the largest absolute values are wanted in this step.
        counts_units: whether it is wanted which units are active.
        before: called before the root is, with autograd on.
        in_backward: whether a backward pass is running.
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
        self._model = model
        self._places = places
        self._fail = fail
        self._pause = pause
        self._renew = renew
        self._logits = None if logits is None else places.outputs[logits]
        self._handles: list[RemovableHandle] = []
        self._autograd: bool | None = None  # inside a call of the root: was autograd on when it began?
        self._current: UsualPass | None = None  # the pass under way, if it is a usual one so far
        self.hasty: set[int] | None = None
        self.usual = UsualPass()
        self.routine: Routine | None = None
        self._waits: Mapping[int, bool] = {}
        self.stale = True  # it may have been materialised or moved since it was looked through
        self.transformed = False
        self.closely = True
        self.counts_units = True
        self.before: Callable[[], None] | None = None
        self.in_backward = False
        self.active = True
        self._pass = Pass()
        self.passes = [self._pass]
        self.clear()
        self._watchers = self._made(model)
        self.attach()

    def clear(self) -> None:
        """Forget what was collected: a step is over."""
        self._current = None
        self.usual.clear()
        if len(self.passes) != 1 or not self._pass.untouched:
            for each in self.passes:
                each.let_go()
            self._pass = Pass()
            self.passes = [self._pass]
        self.odd = self.transformed = False
        self._handles = []

    def spend(self) -> None:
        """What was collected was looked at; gradients may still arrive by another backward pass."""
        for each in self.passes:
            each.spend()
        del self.passes[:-MOST_PASSES]
        self._handles = []

    def spend_usual(self) -> None:
        """The same for the usual pass, which is all that was collected."""
        self.usual.spent = True
        for arrived in self.usual.arrived:
            arrived.clear()

    def unfold(self, *, late: bool = False) -> None:
        """The pass is no usual one after all: it becomes one of many; `late` if backward() has run."""
        usual, routine = self.usual, self.routine
        self.routine = self._current = None
        if not usual.begun or routine is None:
            return
        made = routine.unfold(usual, late=late)
        if not usual.spent:
            made.calls += self._pass.calls
            made.measured += self._pass.measured
            self._pass, self.passes = made, [made]
        else:
            self.passes.insert(0, made)
        usual.clear()

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

    def begin_backward(self, roots: Sequence[Tensor]) -> None:
        """A backward pass begins: a module called from now on is a checkpoint that runs again."""
        self.in_backward = True
        self._current = None
        usual, routine = self.usual, self.routine
        if usual.begun and (usual.spent or self.odd or routine is None or not routine.expects(usual, roots)):
            self.unfold()
        for arrived in usual.arrived:
            arrived.clear()
        for each in self.passes:
            each.restart(self._places.received)

    def begin_anew(self) -> None:
        """What was looked at in this step does not count: a pass that a backward goes through again does."""
        self.unfold()
        for each in self.passes:
            each.spent = False

    def drop_backward(self) -> None:
        """A backward pass has failed: what it reached counts only if another one goes through it."""
        self.in_backward = False
        self.unfold()
        for each in self.passes:
            each.restart(self._places.received)

    def learn(self) -> None:
        """See which places are overwritten, so that they are measured in time from now on."""
        self.hasty = (self.hasty or set()) | self.overwritten

    def factors(self) -> list[tuple[Tensor, Tensor]]:
        """Gradient of the output and input of every call of a Linear layer that is still kept."""
        usual, found = self.usual, []
        arrived = iter(usual.arrived)
        for out, args in zip(usual.outs, usual.fed, strict=True):
            gradients = next(arrived) if self._waits[out] else []
            if factors.plain_linear(self._places.modules[self._places.keys[out][0]]) and gradients and args:
                found.append((gradients[0], args[0]))
        for one in self.passes:
            kept = [
                (one.calls[number][4], x) for number, _, x, version in one.linears if x._version == version
            ]
            found += [(gradients[0], x) for gradients, x in kept if gradients]
        return found

    def touch(self) -> None:
        """A backward pass went through the model, though nothing was collected."""
        self._pass.touched = True

    @property
    def empty(self) -> bool:
        """Whether nothing was collected since the last look."""
        usual = self.usual.begun and not self.usual.spent
        return not usual and not any(
            p.entering or p.measured or (p.calls and not p.spent) for p in self.passes
        )

    @property
    def reached(self) -> bool:
        """Whether a backward pass went through anything that was collected."""
        return any(each.reached for each in self.passes)

    @property
    def overwritten(self) -> set[int]:
        """Places whose tensors were written into since they were seen."""
        seen = [one for each in self.passes for one in self._seen(each)]
        return {place for place, tensor, version in seen if tensor._version != version}

    def _seen(self, one: Pass) -> Iterator[tuple[int, Tensor, int]]:
        yield from one.checked
        for tensor, version in zip(one.entering, one.written, strict=True):
            yield self._places.entry, tensor, version
        if not one.spent:
            for out, tensor, version, _, _ in one.calls:
                yield out, tensor, version

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

    def _next(self) -> Pass:
        last = self._pass
        if not self._model.training and not last.spent and not last.reached:
            self.passes.remove(last)  # it was an evaluation that forgot no_grad
        for each in self.passes:
            if each.spent:
                each.strip()
        self._pass = Pass()
        self.passes.append(self._pass)
        return self._pass

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
