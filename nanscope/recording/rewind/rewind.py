"""Rewind: keep what is needed to execute the last steps again, and do so when something turns non-finite.

While a gradient or the loss is non-finite the parameters are still those before the step, for no optimizer
has stepped: the step is executed again from where the training stands. What was born in an update is noticed
one step later, when that state is gone; then the steps since the last snapshot are executed again, until the
first one that breaks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nanscope.recording import backward, calls, drawn, processes
from nanscope.recording.calls import Watcher
from nanscope.recording.compiled import is_transformed
from nanscope.recording.finite import is_finite
from nanscope.recording.quiet import loud
from nanscope.recording.rewind import bypass
from nanscope.recording.rewind.frames import is_at, trace
from nanscope.recording.rewind.inquiry import Answer, Inquiry, Keep, is_harmed
from nanscope.recording.rewind.keeper import room
from nanscope.recording.rewind.listener import Differentiable, Listener
from nanscope.recording.rewind.memory import TRIED, Memory
from nanscope.recording.rewind.others import rooms
from nanscope.recording.rewind.repeat import Shape
from nanscope.recording.rewind.tape import Event, Program, asks_for_closure
from nanscope.recording.rewind.usual import Brief, Course

LONGEST = 1_000  # letters of an error's text that are kept
MOST_SHAPES = 16
MOST_UNLEARNT = 20  # steps in a row of which too much is to be told; then only one of so many is looked at

Tell = Callable[..., None]


class Rewinder:
    """Of one recorder.

    Args:
        model: the root module.
        optimizers: those that are known from the start.
        tell: writes an event: kind, step and fields.
        aside: a context in which the recorder hears and sees nothing.
        fail: takes an error of its own; nothing is ever raised into the model.
        keep: called with the bad step while everything is as it was before it.
        verifies: whether remedies are tried.

    Attributes:
        number: of the step under way.
        done: whether the origin was looked for; nothing more is kept then.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        *,
        tell: Tell,
        aside: Callable[[], AbstractContextManager[None]],
        fail: Callable[[Exception], None],
        keep: Keep,
        verifies: bool = False,
    ) -> None:
        self._model, self._optimizers = model, list(optimizers)
        self._tell, self._aside, self._fail, self._keep = tell, aside, fail, keep
        self._of_root = {id(model): Watcher(self._enter, self._leave)}
        part = Watcher(self._enter_part, self._leave_part)
        self._watchers = {id(module): part for module in model.modules()}  # until the root is called
        self._depth = 0  # calls of parts that are under way
        self._verifies = verifies
        self._listener = Listener()
        self._listener.owned = frozenset(map(id, model.parameters()))
        self._memory = Memory(model, self._optimizers)
        self._program: Program | None = None
        self._course: Course | None = None  # of the last step
        self._shapes: dict[int, Shape] = {}  # of steps of other forms, by the number of their events
        self._brief: Brief | None = None  # of the step under way, while it goes as that one
        self._update: Event | None = None  # that is under way
        self._unlearnt = 0
        self._call: Event | None = None
        self._copies_inputs = False  # the model writes into what it is given
        self._listens_early = False  # something of the loss, or of the parameters, is made between the steps
        self.number = 0
        self.done = False
        self.attach()
        drawn.watch(self)
        self._listener.turn_on(Differentiable())  # only the first step shows if it is needed

    def attach(self) -> None:
        """Be told about calls of the root."""
        calls.watch(self._watchers)
        bypass.watch(self._optimizers)

    def detach(self) -> None:
        """Be told no more."""
        calls.unwatch(self._watchers)
        bypass.unwatch(self._optimizers)
        self._listener.turn_off()
        self._memory.pause()

    @contextmanager
    def deaf(self) -> Iterator[None]:
        """Steps, of this training or another one that is recorded, are executed again."""
        done, events = self.done, self._listener.events
        self.done, self._listener.events = True, None
        try:
            yield
        finally:
            self.done, self._listener.events = done, events

    # -- what happens in a step -----------------------------------------------------------------------

    def _enter_part(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """The root is called, or one of its modules: the program may use nothing but those."""
        if module is self._model:
            calls.unwatch(self._watchers)
            self._watchers, self._depth = self._of_root, 0
            calls.watch(self._watchers)
        else:
            self._depth += 1
        if self._depth <= 1:
            self._enter(module, args, kwargs)

    def _leave_part(self, args: tuple[Any, ...], output: Any) -> None:
        """One of its modules has returned."""
        self._depth -= 1
        if self._depth <= 0:
            self._leave(args, output)

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """The root is called, or a module that no other one called."""
        if self.done or backward.depth:
            return
        try:
            if kwargs or not self._is_usual(module, args):
                self._begin_call(module, args, kwargs)
            elif self._course is not None:
                rng = torch.default_generator.get_state()
                self._brief = Brief(self._course, self.number, args, rng)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not reach the training
            self._fail(error)

    def _begin_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """The same, written down."""
        self._unfold()
        if not torch.is_grad_enabled() or is_transformed() or self._listener.is_full:
            self._forget_early()
        if not torch.is_grad_enabled() or is_transformed():
            return
        early = self._listener.events
        self._listener.events = None
        if isinstance(early, Differentiable):
            self._listener.turn_off()  # no mode is on while a model runs unless it has to be
        program = self._begun()
        if isinstance(early, Differentiable):
            program.events += early
        if self._copies_inputs:
            args, kwargs = _copied(args), _copied(dict(kwargs))
        context = self._memory.context(program.number)
        came = trace(sys._getframe(3))
        call = None if module is self._model else partial(module)  # which has a hash, whatever the module is
        self._call = Event(call, args, dict(kwargs), came, context=context)
        program.events.append(self._call)
        program.see(args, kwargs)

    def _is_usual(self, module: nn.Module, args: tuple[Any, ...]) -> bool:
        """Whether the step that begins with this call may go as the one before."""
        course = self._course
        return (
            course is not None
            and self._brief is None
            and self._program is None
            and self._listener.events is None
            and module is self._model
            and list(map(type, args)) == course.entering
            and torch.is_grad_enabled()
            and not (torch.is_autocast_enabled("cpu") or is_transformed())
            and not torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
            and True not in map(Tensor.is_inference, args)
            and is_at(sys._getframe(3), course.came)
            and self._memory.is_usual(self.number)
        )

    def _unfold(self) -> Program | None:
        """The step under way, written down."""
        brief, self._brief = self._brief, None
        if brief is not None:
            self._program = brief.program()
            if self._listener.events is not None:
                self._listener.events, self._listener.follower = self._program.events, None
        return self._program

    def _begun(self) -> Program:
        if self._program is None:
            self._program = Program(self.number)
            self._memory.begin(self._program)
        return self._program

    def _forget_early(self) -> None:
        """It was another thing than the beginning of a step, such as an evaluation."""
        if self._program is None or not self._program.is_called:
            self._program = None
            self._listener.turn_off()

    def _leave(self, _args: tuple[Any, ...], output: Any) -> None:
        """It has returned."""
        try:
            brief = self._brief
            if brief is None:
                self._end_call(output)
            elif not self.done:
                brief.results.append(output)
                self._listener.turn_on(brief.heard, brief)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not reach the training
            self._fail(error)

    def _end_call(self, output: Any) -> None:
        """The same, written down."""
        call, self._call = self._call, None
        if self.done or self._program is None or call is None or call.context is None:
            return
        call.result = output
        self._memory.end_call(call.context)
        self._listener.turn_on(self._program.events)

    def begin_backward(self, roots: tuple[Tensor, ...]) -> None:
        """A backward pass is about to run."""
        self._depth = 0  # of a call that raised nobody hears the end
        if self.done or (self._brief is not None and self._brief.is_in_backward):
            return
        program = self._unfold()
        if program is not None and not (program.events and program.events[-1].is_backward):
            # the listener did not hear of it
            program.events.append(Event(torch.autograd.backward, (roots,), {}))

    def end_backward(self, loss: float | None, *, suspect: bool) -> None:
        """It is over; look where it was born if something is not finite and does harm.

        Args:
            loss: as it is known now.
            suspect: whether something may not be finite.
        """
        step = self._brief or self._program
        if step is not None and loss is not None:
            step.loss = loss + (step.loss or 0.0)
        if self.done or step is None or not suspect:
            return
        program = self._unfold()
        if program is None or not is_harmed(loss, self._model, self._optimizers):
            return
        self._investigate(program, loss)

    def begin_update(self, optimizer: Optimizer) -> None:
        """An optimizer is about to step."""
        self._listener.turn_off()
        if self.done:
            return
        brief, caller = self._brief, sys._getframe(2)
        settings = tuple(map(dict.copy, optimizer.param_groups))
        for group in settings:
            del group["params"]
        if brief is not None and brief.updates(optimizer, caller) and self._memory.is_own(optimizer):
            brief.settings = settings
            return
        if not any(optimizer is each for each in self._optimizers):
            self._memory.add(optimizer)
            bypass.reach(optimizer)
        if self._program is None and brief is None and asks_for_closure(optimizer):
            self._begun()
        self._note_update()
        self._update = Event(None, (), {}, trace(caller), optimizer=optimizer, settings=settings)
        if (program := self._unfold()) is not None:
            self._memory.begin_update(program, optimizer)
        if asks_for_closure(optimizer):  # it calls the model itself, and all of that belongs to the update
            self._note_update()

    def end_update(self, optimizer: Optimizer) -> None:
        """It has stepped."""
        if not self.done:
            if self._update is not None:
                self._note_update()
            self._memory.end_update(optimizer)

    def _note_update(self) -> None:
        """An update comes after the calls of a closure that the optimizer was given."""
        update, self._update = self._update, None
        if update is None:
            return
        if self._program is not None:
            self._program.events.append(update)

    def end_step(self) -> None:
        """The step is over."""
        self.number += 1
        self._listener.turn_off()
        brief = self._brief
        if brief is not None and not self.done and brief.ends():
            self._brief = None
            self._memory.end(brief)
            return
        self._note_update()
        program, self._program = self._unfold(), None
        if program is None or self.done:
            return
        rest = program.cut()
        self._keep_step(program)
        if rest:
            self._go_on(rest)
        elif self._listens_early and self._listener.turn_on([]):
            self._listener.events = self._begun().events

    def leave_step(self) -> None:
        """The step under way is the last, and nothing in it will be asked for."""
        self._listener.turn_off()
        self._program = self._brief = self._update = None

    def _keep_step(self, program: Program) -> None:
        """A step that is over, as what is new in it if it went as the last one."""
        shape = self._shapes.get(len(program.events))
        repeat = None if shape is None else shape.fits(program)
        if repeat is not None:
            self._unlearnt = 0
            self._memory.end(repeat)
        else:
            program.seal()
            self._learn(program)
            self._copies_inputs |= program.overwritten()
            self._listens_early |= program.reaches_back
            self._memory.end(program)
        self._listens_early |= self._memory.is_poked

    def _go_on(self, events: list[Event]) -> None:
        """What was called after the last update of a step begins the next one."""
        program = self._begun()
        for event in events:
            program.events.append(event)
            if event.context is not None:
                program.see(event.args, event.kwargs)
        self._listener.turn_on(program.events)

    def _learn(self, program: Program) -> None:
        """See whether the next step can be told by what this one was."""
        self._course = None
        if program.number < TRIED:
            return  # more is noted of the first ones than of any other
        if self._unlearnt < MOST_UNLEARNT or program.number % MOST_UNLEARNT == 0:
            self._course = Course.of(program)
            if self._course is None:
                self._learn_shape(program)
            self._unlearnt = 0 if self._course is not None else self._unlearnt + 1

    def _learn_shape(self, program: Program) -> None:
        if len(self._shapes) >= MOST_SHAPES:
            self._shapes.clear()
        if (shape := Shape.of(program)) is not None:
            self._shapes[len(program.events)] = shape

    def trouble(self, noticed: int) -> None:
        """Harm was noticed, in or after step `noticed`, which is over."""
        if not self.done:
            self._go_back(noticed)

    def finish(self) -> None:
        """The training is over: nobody will notice later what the last update, or an unfinished step, did."""
        if self.done:
            return
        program, number = self._unfold(), self.number
        if program is not None and program.is_broken:
            program.is_open = True
            self._investigate(program, None)
        elif number and not all(map(is_finite, self._model.parameters())):
            self._go_back(number - 1)

    def renew(self) -> None:
        """The model has other tensors than it had."""
        self._course = None
        self._shapes.clear()
        self._listener.owned = frozenset(map(id, self._model.parameters()))
        self._memory.renew()

    def close(self) -> None:
        """Keep nothing more."""
        self.done = True
        self.detach()
        drawn.unwatch(self)
        self._program = self._call = self._course = self._brief = self._update = None
        self._shapes.clear()
        self._memory.clear()

    @property
    def optimizers(self) -> tuple[Optimizer, ...]:
        """Those that were given, and those that have stepped while anything was kept."""
        return tuple(self._optimizers)

    @property
    def is_under_way(self) -> bool:
        """Whether the root was called in a step that has not ended."""
        return self._brief is not None or (self._program is not None and self._program.is_called)

    @property
    def batch(self) -> dict[str, list[Tensor]]:
        """What has entered the step under way."""
        program = self._unfold()
        return {"inputs": [], "targets": []} if program is None else program.batch

    # -- going back -----------------------------------------------------------------------------------

    def _investigate(self, program: Program, loss: float | None) -> None:
        """The step under way is bad; the parameters are still those before it."""
        memory, inquiry = self._memory, self._inquiry(program.number)

        def ask() -> Answer:
            program.seal()
            state = memory.before()
            moved = any(event.optimizer is not None for event in program.events)
            if (memory.is_sound(state) and not moved) or not any(
                memory.is_sound(s.state) for s in memory.snapshots
            ):
                return inquiry.of_step(program, state, loss)
            return inquiry.of_steps([*memory.programs, program], memory.snapshots)

        self._answer(ask, program.number)

    def _go_back(self, noticed: int) -> None:
        """The bad step is over: execute the steps since a snapshot again."""
        memory, inquiry = self._memory, self._inquiry(noticed)
        steps = [program for program in memory.programs if program.number <= noticed]
        self._answer(lambda: inquiry.of_steps(steps, memory.snapshots), noticed)

    def _answer(self, ask: Callable[[], Answer], noticed: int) -> None:
        model = self._model
        try:
            with (
                loud(),
                self._aside(),
                room(model, self._optimizers),
                rooms(self._steps),
                processes.alone(model),
            ):
                answer = ask()
                self._tell(answer.kind, answer.step, **answer.fields)
                if answer.kind == "origin" and not processes.are_several():
                    self._look_further(answer)
        except Exception as error:  # noqa: BLE001 - what cannot be executed again is said, and recorded further
            self._tell("no-rewind", noticed, why=repr(error)[:LONGEST])
        self.close()

    @property
    def _steps(self) -> list[Program]:
        """Those that are kept, and the one under way."""
        return [*self._memory.programs, *([] if self._program is None else [self._program])]

    def _look_further(self, origin: Answer) -> None:
        """How sharp the loss was before, and what would have helped."""
        steps = [p for p in self._steps if p.number <= origin.step and not p.lacks]
        sound = [s for s in self._memory.snapshots if self._memory.is_sound(s.state)]
        sound = [s for s in sound if any(p.number >= s.number for p in steps)]
        if not sound:
            return
        from nanscope.recording.rewind.further import Further  # noqa: PLC0415 - only where something was born

        further = Further(self._model, self._optimizers, sound, steps)
        if (fields := further.sharpness()) is not None:
            self._tell("sharpness", fields.pop("batch_of"), **fields)
        if self._verifies and (fields := further.remedies(origin.fields)) is not None:
            self._tell("remedies", origin.step, **fields)

    def _inquiry(self, noticed: int) -> Inquiry:
        return Inquiry(self._model, self._optimizers, noticed, self._keep, self._memory.meant)


def _copied(value: Any) -> Any:
    """Nested values with copies of their tensors."""
    if isinstance(value, Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if type(value) in (tuple, list):
        return type(value)(map(_copied, value))
    if type(value) is dict:
        return {key: _copied(item) for key, item in value.items()}
    return value
