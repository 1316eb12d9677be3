"""A step that goes as the one before it: the least is noted of it that it takes to execute it again.

To write a step down costs a tenth of a millisecond, as much as a small step itself takes. Most steps of a
loop make the same calls from the same lines; then only what came from outside is new. What is noted is turned
into a `Program` as soon as anything goes otherwise, and when the step is to be executed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from nanscope.recording.rewind.frames import Trace
from nanscope.recording.rewind.tape import Context, Event, Program, Ref

_PLAIN = frozenset(
    (int, float, bool, str, slice, type(None), type(...), torch.dtype, torch.device, torch.memory_format)
)
_CONSTANT = _PLAIN | {Parameter}
_NESTED = (tuple, torch.Size)  # of plain values

Settings = tuple[dict[str, Any], ...]


class Call(NamedTuple):
    """A function of the loss, or the backward pass.

    Attributes:
        event: as it was in the step that was learnt from.
        made: which arguments were made in the step, and by which event.
        outside: which are tensors that came from outside, made of none before it with a gradient; the others
            are constants, `nested` in a tuple.
        kinds: types of the arguments.
    """

    event: Event
    made: tuple[tuple[int, int], ...]
    outside: tuple[int, ...]
    nested: tuple[int, ...]
    kinds: list[type]

    def given(self, event: Event, results: Sequence[Any]) -> list[Any] | None:
        """The arguments of another event, with those that were made in the step as references.

        None if it is another call, or called with other kinds of arguments.
        """
        if not self._is_of(event):
            return None
        known, args = self.event.args, list(event.args)
        for position, number in self.made:
            if args[position] is not results[number]:
                return None
            args[position] = known[position]
        fits = (
            list(map(type, args)) == self.kinds
            and False not in [_is_outside(args[position], results) for position in self.outside]
            and False not in [_is_nested(args[position]) for position in self.nested]
        )
        return args if fits else None

    def _is_of(self, event: Event) -> bool:
        known, kwargs = self.event, event.kwargs
        return (
            event.call == known.call
            and event.trace == known.trace
            and len(event.args) == len(self.kinds)
            and (
                not (kwargs or known.kwargs)
                or (_PLAIN.issuperset(map(type, kwargs.values())) and kwargs == known.kwargs)
            )
        )


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """How a step went: one call of the root, functions of its output, a backward pass, an update.

    Attributes:
        entering: the types of what the root is called with: tensors all.
        came: where the root was called from; `updated` where the update was made.
        calls: what followed the call of the root.
        training, graded: see `Program`.
    """

    entering: list[type]
    came: Trace
    updated: Trace
    optimizer: Optimizer
    calls: tuple[Call, ...]
    training: Sequence[bool]
    graded: Sequence[bool]

    @classmethod
    def of(cls, program: Program) -> Course | None:
        """Of a sealed step; None if there is more to it than that."""
        events = program.events
        if len(events) < 3 or program.reaches_back:
            return None
        first, last = events[0], events[-1]
        context, optimizer = first.context, last.optimizer
        plain = first.call is None and not first.kwargs and set(map(type, first.args)) == {Tensor}
        if context is None or context.cuda or context.autocast or context.others or not plain:
            return None
        calls = [_learnt(event) for event in events[1:-1]]
        known = tuple([call for call in calls if call is not None])
        if optimizer is None or len(known) < len(calls):
            return None
        return cls(
            [Tensor] * len(first.args),
            first.trace,
            last.trace,
            optimizer,
            known,
            program.training,
            program.graded,
        )


@dataclass(slots=True, eq=False)
class Brief:
    """A step that was noted.

    Attributes:
        entering, versions: what the root was called with, and the counts of writes into each.
        rng: state of torch's CPU generator.
        came, updated: where the root was called from, and the update made.
        heard: what followed, until the step is over; from then on `args` what each of it was given, and
            `entered` the tensors from outside among that, with their `counts` of writes.
        settings: of the optimizer before the update; None before it.
        is_over: whether it ended as the course did.
    """

    course: Course
    number: int
    entering: tuple[Tensor, ...]
    versions: list[int]
    rng: Tensor
    came: Trace
    updated: Trace = ()
    output: Any = None
    heard: list[Event] = field(default_factory=list)
    loss: float | None = None
    settings: Settings | None = None
    args: list[list[Any]] = field(default_factory=list)
    entered: list[Tensor] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    bytes: int = 0
    is_over: bool = False

    def updates(self, optimizer: Optimizer) -> bool:
        """Whether this is the first update of the step, and of the optimizer that is expected."""
        return self.settings is None and optimizer is self.course.optimizer

    def ends(self) -> bool:
        """Whether it went as the course; then it lets go of all that it made."""
        course, heard = self.course, self.heard
        if (
            self.settings is None
            or len(heard) != len(course.calls)
            or self.came != course.came
            or self.updated != course.updated
            or [tensor._version for tensor in self.entering] != self.versions
        ):
            return False
        results = [self.output, *[event.result for event in heard]]
        args = [call.given(event, results) for call, event in zip(course.calls, heard, strict=True)]
        self.args = [each for each in args if each is not None]
        if len(self.args) < len(args):
            return False
        self.entered = [self.args[i][j] for i, call in enumerate(course.calls) for j in call.outside]
        self.counts = [tensor._version for tensor in self.entered]
        self.bytes = sum({id(t): t.nbytes for t in (*self.entering, *self.entered)}.values())
        self.output, self.heard, self.is_over = None, [], True
        return True

    def program(self) -> Program:
        """The same, written down."""
        course = self.course
        program = Program(self.number, training=course.training, graded=course.graded, loss=self.loss)
        program.see(self.entering, {})
        program.fixed = {id(t): (t, v) for t, v in zip(self.entering, self.versions, strict=True)}
        first = Event(None, self.entering, {}, self.came, self.output, Context(self.rng, (), {}))
        program.events = [first, *self.heard]
        if self.is_over:
            program.events += [
                Event(call.event.call, tuple(args), call.event.kwargs, call.event.trace)
                for call, args in zip(course.calls, self.args, strict=True)
            ]
            for tensor, version in zip(self.entered, self.counts, strict=True):
                program.fixed.setdefault(id(tensor), (tensor, version))
            program.bytes, program.sealed = self.bytes, True
        if self.settings is not None:
            optimizer = course.optimizer
            update = Event(None, (), {}, self.updated, optimizer=optimizer, settings=self.settings)
            program.events.append(update)
        return program


def _learnt(event: Event) -> Call | None:
    """None of an event that is no call of a function with tensors and constants."""
    plain = event.optimizer is None and event.context is None and not event.poked
    if not plain or type(event.args) is not tuple or not _PLAIN.issuperset(map(type, event.kwargs.values())):
        return None
    made, outside, nested = [], [], []
    for position, value in enumerate(event.args):
        if type(value) is Ref and value.item is None:
            made.append((position, value.event))
        elif type(value) is Tensor:
            outside.append(position)
        elif _is_nested(value):
            nested.append(position)
        elif type(value) not in _CONSTANT:
            return None
    return Call(event, tuple(made), tuple(outside), tuple(nested), list(map(type, event.args)))


def _is_nested(value: Any) -> bool:
    return type(value) in _NESTED and _PLAIN.issuperset(map(type, value))


def _is_outside(value: Tensor, results: Sequence[Any]) -> bool:
    """Whether the step has not made a tensor, and nothing before it with a gradient."""
    return value.grad_fn is None and not value.is_inference() and True not in [value is r for r in results]
