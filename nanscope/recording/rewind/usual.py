"""A step that goes as the one before it: the least is noted of it that it takes to execute it again.

To write a step down costs a tenth of a millisecond, as much as a small step itself takes. Most steps of a
loop make the same calls from the same lines; then only what came from outside is new. What is noted is turned
into a `Program` as soon as anything goes otherwise, and when the step is to be executed again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from nanscope.recording.rewind.frames import Trace, is_at
from nanscope.recording.rewind.tape import BACKWARDS, Context, Event, Program, Ref

VERSION, NBYTES = attrgetter("_version"), attrgetter("nbytes")  # a comprehension is a call more
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
        is_backward: whether it is the backward pass.
    """

    event: Event
    made: tuple[tuple[int, int], ...]
    outside: tuple[int, ...]
    nested: tuple[int, ...]
    kinds: list[type]
    is_backward: bool

    def given(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], results: Sequence[Any], entered: list[Tensor]
    ) -> list[Any] | None:
        """The arguments of a call of the same function, with those that the step made as references.

        None if they are of other kinds, or others of them were made. Those from outside join `entered`.
        """
        given = list(args)
        if len(given) != len(self.kinds):
            return None
        named = kwargs or self.event.kwargs
        if named and not (_PLAIN.issuperset(map(type, kwargs.values())) and kwargs == self.event.kwargs):
            return None
        known = self.event.args
        for position, number in self.made:
            if given[position] is not results[number]:
                return None
            given[position] = known[position]
        if list(map(type, given)) != self.kinds:
            return None
        for position in self.outside:
            value = given[position]
            if value.grad_fn is not None or value.is_inference() or id(value) in map(id, results):
                return None
            entered.append(value)
        return given if not self.nested or all(_is_nested(given[i]) for i in self.nested) else None


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
        if any(call.is_backward and call.event.call is not BACKWARDS[0] for call in known):
            return None  # it begins before it is heard
        return cls(
            [Tensor] * len(first.args),
            first.trace,
            last.trace,
            optimizer,
            known,
            program.training,
            program.graded,
        )


class Brief:
    """A step that is noted, while it goes as the course and when it has.

    Attributes:
        entering, versions: what the root was called with, and the counts of writes into each.
        rng: state of torch's CPU generator.
        results: what the root and the calls after it gave, until the step is over.
        given: the arguments of these calls; `entered` the tensors from outside among them, with their
            `counts` of writes once the step is over.
        heard: all calls, written down, as soon as one is another than that of the course.
        settings: of the optimizer before the update; None before it.
        is_over: whether it ended as the course did.
    """

    __slots__ = (
        "bytes",
        "counts",
        "course",
        "entered",
        "entering",
        "given",
        "heard",
        "is_over",
        "loss",
        "number",
        "results",
        "rng",
        "settings",
        "versions",
    )

    def __init__(self, course: Course, number: int, entering: tuple[Tensor, ...], rng: Tensor) -> None:
        self.course, self.number, self.entering, self.rng = course, number, entering, rng
        self.versions = list(map(VERSION, entering))
        self.results: list[Any] = []
        self.given: list[list[Any]] = []
        self.entered: list[Tensor] = []
        self.counts: list[int] = []
        self.heard: list[Event] = []
        self.settings: Settings | None = None
        self.loss: float | None = None
        self.bytes = 0
        self.is_over = False

    def hears(
        self, call: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any, caller: FrameType
    ) -> bool:
        """See `Follower`."""
        calls, number = self.course.calls, len(self.given)
        if number == len(calls):
            return False
        known = calls[number]
        if call != known.event.call or not is_at(caller, known.event.trace):
            return False
        given = known.given(args, kwargs, self.results, self.entered)
        if given is None:
            return False
        self.given.append(given)
        self.results.append(result)
        return True

    @property
    def is_past_backward(self) -> bool:
        """See `Follower`."""
        return any(call.is_backward for call in self.course.calls[: len(self.given)])

    @property
    def is_in_backward(self) -> bool:
        """Whether the last call that was heard is a backward pass."""
        if self.heard:
            return self.heard[-1].is_backward
        return bool(self.given) and self.course.calls[len(self.given) - 1].is_backward

    def updates(self, optimizer: Optimizer, caller: FrameType) -> bool:
        """Whether this is the first update of the step, made by the optimizer and from where it should be."""
        course = self.course
        return self.settings is None and optimizer is course.optimizer and is_at(caller, course.updated)

    def ends(self) -> bool:
        """Whether it went as the course; then it lets go of all that it made."""
        if (
            self.settings is None
            or self.heard
            or len(self.given) != len(self.course.calls)
            or list(map(VERSION, self.entering)) != self.versions
        ):
            return False
        self.counts = list(map(VERSION, self.entered))
        held = (*self.entering, *self.entered)
        self.bytes = sum(dict(zip(map(id, held), map(NBYTES, held), strict=True)).values())
        self.results, self.is_over = [], True
        return True

    def program(self) -> Program:
        """The same, written down."""
        course = self.course
        program = Program(self.number, training=course.training, graded=course.graded, loss=self.loss)
        program.see(self.entering, {})
        program.fixed = {id(t): (t, v) for t, v in zip(self.entering, self.versions, strict=True)}
        output = self.results[0] if self.results else None
        first = Event(None, self.entering, {}, course.came, output, Context(self.rng, (), {}))
        program.events = [first, *(self.heard or self.written())]
        if self.is_over:
            for tensor, version in zip(self.entered, self.counts, strict=True):
                program.fixed.setdefault(id(tensor), (tensor, version))
            program.bytes, program.sealed = self.bytes, True
        if self.settings is not None:
            optimizer = course.optimizer
            update = Event(None, (), {}, course.updated, optimizer=optimizer, settings=self.settings)
            program.events.append(update)
        return program

    def written(self) -> list[Event]:
        """See `Follower`."""
        results = self.results[1:] or [None] * len(self.given)
        known = [call.event for call in self.course.calls]
        return [
            Event(event.call, tuple(given), event.kwargs, event.trace, result)
            for event, given, result in zip(known, self.given, results, strict=False)
        ]


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
    kinds = list(map(type, event.args))
    return Call(event, tuple(made), tuple(outside), tuple(nested), kinds, event.is_backward)


def _is_nested(value: Any) -> bool:
    return type(value) in _NESTED and _PLAIN.issuperset(map(type, value))
