"""Rewind: keep what is needed to execute the last steps again, and do so when something turns non-finite.

While a gradient or the loss is non-finite the parameters are still those before the step, for no optimizer
has stepped: the step is executed again from where the training stands. What was born in an update is noticed
one step later, when that state is gone; then the steps since the last snapshot are executed again, until the
first one that breaks.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from nanscope.recording import backward, calls
from nanscope.recording.calls import Watcher
from nanscope.recording.compiled import is_transformed
from nanscope.recording.rewind.inquiry import Answer, Inquiry, Keep, Snapshot, is_finite, is_harmed
from nanscope.recording.rewind.keeper import State, held, room
from nanscope.recording.rewind.tape import Context, Event, Listener, Program

STATE_BYTES = 256 << 20  # of the snapshots
BATCH_BYTES = 64 << 20  # of what went into the steps since the older snapshot
MOST_STEPS = 500
MOST_SNAPSHOTS = 2
SHARE = 100  # a snapshot is taken when a hundred times as long has passed as one takes

Tell = Callable[..., None]
Guard = Callable[[Callable[..., None]], Callable[..., None]]


class Rewinder:
    """Of one recorder.

    Args:
        model: the root module.
        optimizers: those that are known from the start.
        number: of the step under way.
        tell: writes an event: kind, step and fields.
        aside: a context in which the recorder hears and sees nothing.
        guard: makes a function one that does not raise into the training.
        keep: called with the bad step while everything is as it was before it.

    Attributes:
        done: whether the origin was looked for; nothing more is kept then.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        *,
        number: Callable[[], int],
        tell: Tell,
        aside: Callable[[], AbstractContextManager[None]],
        guard: Guard,
        keep: Keep,
    ) -> None:
        self._model, self._optimizers = model, list(optimizers)
        self._number, self._tell, self._aside, self._keep = number, tell, aside, keep
        self._watchers = {id(model): Watcher(guard(self._enter), guard(self._leave))}
        self._listener = Listener()
        self._program: Program | None = None
        self._call: Event | None = None
        self._programs: deque[Program] = deque()
        self._bytes = 0
        self._snapshots: list[Snapshot] = []
        self._buffers: list[Tensor] = []
        self._buffers_before: list[Tensor] = []
        self._next = 0.0
        self._too_large = False
        self._ready = False  # whether all tensors of the model are known
        self.done = False
        self.attach()

    def attach(self) -> None:
        """Be told about calls of the root."""
        calls.watch(self._watchers)

    def detach(self) -> None:
        """Be told no more."""
        calls.unwatch(self._watchers)
        self._listener.turn_off()

    # -- what happens in a step -----------------------------------------------------------------------

    def _enter(self, _model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """The root is called."""
        if self.done or backward.is_running() or not torch.is_grad_enabled() or is_transformed():
            return
        self._listener.turn_off()
        program = self._program
        if program is None:
            program = self._program = Program(self._number())
            self._begin(program)
        self._call = Event(None, args, dict(kwargs), context=self._context())
        program.events.append(self._call)
        program.see(args, kwargs)

    def _leave(self, _args: tuple[Any, ...], output: Any) -> None:
        """It has returned."""
        if self.done or self._program is None or self._call is None:
            return
        self._call.result, self._call = output, None
        if self._listener.turn_on():
            self._listener.events = self._program.events

    def begin_backward(self, roots: tuple[Tensor, ...]) -> None:
        """A backward pass is about to run."""
        program = self._program
        if self.done or program is None:
            return
        if not (program.events and program.events[-1].is_backward):  # the listener did not hear of it
            program.events.append(Event(torch.autograd.backward, (roots,), {}))

    def end_backward(self, loss: float | None, *, suspect: bool) -> None:
        """It is over; look where it was born if something is not finite and does harm.

        Args:
            loss: as it is known now.
            suspect: whether something may not be finite.
        """
        program = self._program if suspect else None
        if self.done or program is None or not is_harmed(loss, self._model, self._optimizers):
            return
        self._investigate(program, loss)

    def begin_update(self, optimizer: Optimizer) -> None:
        """An optimizer is about to step."""
        self._listener.turn_off()
        if self.done:
            return
        if not any(optimizer is each for each in self._optimizers):
            self._optimizers.append(optimizer)
            for snapshot in self._snapshots:
                snapshot.state.add(optimizer)
        if self._program is not None:
            settings = tuple([{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups])
            self._program.events.append(Event(None, (), {}, optimizer=optimizer, settings=settings))

    def end_step(self) -> None:
        """The step is over."""
        program, self._program = self._program, None
        self._listener.turn_off()
        if program is None or self.done:
            return
        program.seal()
        self._programs.append(program)
        self._bytes += program.bytes

    def trouble(self, noticed: int) -> None:
        """Harm was noticed, in or after step `noticed`, which is over."""
        if not self.done:
            self._go_back(noticed)

    def finish(self, last: int) -> None:
        """The training is over: nobody will notice later what the last update did."""
        if not self.done and not all(map(is_finite, held(self._model, self._optimizers))):
            self._go_back(last)

    def renew(self) -> None:
        """The model has other tensors than it had: what was kept of them is of no use."""
        self._ready = False
        self._snapshots, self._next = [], 0.0
        self._forget(self._number())

    def close(self) -> None:
        """Keep nothing more."""
        self.done = True
        self.detach()
        self._program = self._call = None
        self._programs.clear()
        self._snapshots, self._buffers_before = [], []

    @property
    def batch(self) -> dict[str, list[Tensor]]:
        """What has entered the step under way."""
        return {"inputs": [], "targets": []} if self._program is None else self._program.batch

    # -- what is kept ---------------------------------------------------------------------------------

    def _begin(self, program: Program) -> None:
        if not self._ready:
            self._ready = not any(map(is_lazy, self._model.parameters()))
            self._buffers = [buffer for buffer in self._model.buffers() if not is_lazy(buffer)]
            self._buffers_before = [buffer.detach().clone() for buffer in self._buffers]
        elif self._buffers:
            torch._foreach_copy_(self._buffers_before, self._buffers)
        now = time.perf_counter()
        if self._too_large or not self._ready:
            return
        if now >= self._next or self._bytes > BATCH_BYTES // 2 or len(self._programs) > MOST_STEPS:
            self._take_snapshot(program.number)
            took = time.perf_counter() - now
            self._next = now + took * (1 + SHARE)

    def _take_snapshot(self, number: int) -> None:
        if len(self._snapshots) == MOST_SNAPSHOTS:
            oldest = self._snapshots.pop(0)
            oldest.state.renew(self._optimizers)
            self._snapshots.append(Snapshot(number, oldest.state))
        else:
            self._snapshots.append(Snapshot(number, State(self._model, self._optimizers)))
        size = self._snapshots[-1].state.bytes
        if size > STATE_BYTES:
            self._too_large, self._snapshots = True, []
        elif len(self._snapshots) * size > STATE_BYTES:
            del self._snapshots[0]
        self._forget(self._snapshots[0].number if self._snapshots else number)

    def _forget(self, before: int) -> None:
        while self._programs and self._programs[0].number < before:
            self._programs.popleft()
        self._bytes = sum(program.bytes for program in self._programs)

    def _context(self) -> Context:
        autocast = {}
        if torch.is_autocast_enabled("cpu"):
            autocast["cpu"] = torch.get_autocast_dtype("cpu")
        if torch.is_autocast_enabled("cuda"):
            autocast["cuda"] = torch.get_autocast_dtype("cuda")
        cuda = torch.cuda.default_generators if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
        states = tuple([generator.get_state() for generator in cuda])
        return Context(torch.default_generator.get_state(), states, autocast, self._model.training)

    # -- going back -----------------------------------------------------------------------------------

    def _investigate(self, program: Program, loss: float | None) -> None:
        """The step under way is bad; the parameters are still those before it."""
        program.seal()
        inquiry = self._inquiry(program.number)
        with self._aside(), room(self._model, self._optimizers):
            state = State(self._model, self._optimizers)
            state.replace(dict(zip(map(id, self._buffers), self._buffers_before, strict=True)))
            if state.is_finite() or not any(snapshot.state.is_finite() for snapshot in self._snapshots):
                answer = inquiry.of_step(program, state, loss)
            else:
                answer = inquiry.of_steps([*self._programs, program], self._snapshots)
        self._finish(answer)

    def _go_back(self, noticed: int) -> None:
        """The bad step is over: execute the steps since a snapshot again."""
        inquiry = self._inquiry(noticed)
        with self._aside(), room(self._model, self._optimizers):
            answer = inquiry.of_steps([p for p in self._programs if p.number <= noticed], self._snapshots)
        self._finish(answer)

    def _inquiry(self, noticed: int) -> Inquiry:
        return Inquiry(self._model, self._optimizers, noticed, self._keep)

    def _finish(self, answer: Answer) -> None:
        self._tell(answer.kind, answer.step, **answer.fields)
        self.close()
