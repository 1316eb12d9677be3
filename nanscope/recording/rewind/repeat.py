"""Repeat: a step of any form that went as another one, kept as what was new in it.

A step that is written down is hundreds of objects. Thousands of such steps would make Python's collector of
garbage walk through everything there is, again and again, for longer than the steps themselves take.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from nanscope.recording.rewind.tape import Context, Event, Program, Ref, tensors_of

_NUMBERS = (int, float, slice)  # another one in each step, as where a batch begins
_VALUES = frozenset((bool, str, type(None), torch.Size, torch.dtype, torch.device, torch.memory_format))


class _Outside:
    """Stands for a tensor that comes from outside of the step, or a number."""


_OUTSIDE = _Outside()


class _Misfit(Exception):  # noqa: N818 - it is an answer
    """A step goes otherwise."""


@dataclass(slots=True, eq=False)
class Shape:
    """How a step goes: its events, with `_OUTSIDE` for whatever came from outside."""

    events: list[Event]

    @classmethod
    def of(cls, program: Program) -> Shape | None:
        """Of a sealed step; None if others cannot be told by it."""
        if program.reaches_back or program.is_open or any(event.poked for event in program.events):
            return None
        fixed = program.fixed
        return cls(
            [
                Event(
                    event.call,
                    _form(event.args, fixed),
                    _form(event.kwargs, fixed),
                    event.trace,
                    context=event.context,
                    optimizer=event.optimizer,
                    settings=event.settings,
                )
                for event in program.events
            ]
        )

    def fits(self, program: Program) -> Repeat | None:
        """What is new in a step that is over and not sealed; None if it went otherwise."""
        if len(program.events) != len(self.events):
            return None
        try:
            with torch._C.DisableTorchFunction():
                return _Fitting(program).fit(self)
        except _Misfit:
            return None


@dataclass(slots=True, eq=False)
class Repeat:
    """A step that went as its shape.

    Attributes:
        given: what came from outside, in order; `counts` of writes into those that are tensors.
        beside: what the step made of that, and gave to a call, likewise.
        contexts: of the calls, in order; only the state of the CPU's generator where there is no more to it.
        settings: of the updates, in order.
    """

    shape: Shape
    number: int
    rows: int
    training: Any
    graded: Any
    loss: float | None
    given: list[Any] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    beside: list[tuple[Tensor, int]] = field(default_factory=list)
    contexts: list[Context | Tensor] = field(default_factory=list)
    settings: list[Any] = field(default_factory=list)
    bytes: int = 0

    def program(self) -> Program:
        """The same, written down."""
        given, contexts, settings = iter(self.given), iter(self.contexts), iter(self.settings)
        program = Program(self.number, rows=self.rows, training=self.training, graded=self.graded)
        program.loss, program.bytes, program.sealed = self.loss, self.bytes, True
        tensors = [value for value in self.given if isinstance(value, Tensor)]
        for tensor, count in zip(tensors, self.counts, strict=True):
            program.fixed.setdefault(id(tensor), (tensor, count))
        program.fixed |= {id(held[0]): held for held in self.beside}
        for event in self.shape.events:
            made = Event(event.call, _filled(event.args, given), _filled(event.kwargs, given), event.trace)
            if event.context is not None:
                known = next(contexts)
                made.context = known if isinstance(known, Context) else Context(known, (), {})
            if event.optimizer is not None:
                made.optimizer, made.settings = event.optimizer, next(settings)
            program.events.append(made)
        return program


class _Fitting:
    """Of one step; see `Shape.fits`."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._made: dict[int, Ref] = {}
        self._entered: set[int] = set()

    def fit(self, shape: Shape) -> Repeat:
        """What is new in it, or `_Misfit`."""
        program = self._program
        self._new = new = Repeat(
            shape, program.number, program.rows, program.training, program.graded, program.loss
        )
        new.bytes = program.bytes
        for number, (known, event) in enumerate(zip(shape.events, program.events, strict=True)):
            same = event.call is known.call or event.call == known.call
            if not same or event.trace != known.trace or event.poked:
                raise _Misfit
            if known.call is None or event.context is not None:
                self._see_surroundings(known, event)
            self._see(known.args, event.args)
            if event.kwargs or known.kwargs:
                self._see(known.kwargs, event.kwargs)
            self._note(number, event.result)
        self._see_rest(program)
        return new

    def _note(self, number: int, result: Any) -> None:
        if type(result) is Tensor:
            self._made[id(result)] = Ref(number)
        elif result is not None:
            self._made.update({id(tensor): Ref(number, item) for tensor, item in tensors_of(result)})

    def _see_rest(self, program: Program) -> None:
        """What went into a call of the root and was not met among what came from outside."""
        for key, held in program.fixed.items():
            if key in self._entered:
                continue
            if key not in self._made:
                raise _Misfit
            if held[0].grad_fn is None:
                self._new.beside.append(held)

    def _see_surroundings(self, known: Event, event: Event) -> None:
        """Of a call of a module, or an update."""
        context, new = event.context, self._new
        if event.optimizer is not known.optimizer or (context is None) != (known.context is None):
            raise _Misfit
        if event.optimizer is not None:
            new.settings.append(known.settings if event.settings == known.settings else event.settings)
        if context is not None:
            more = context.cuda or context.autocast or context.others
            new.contexts.append(context if more else context.rng)

    def _see(self, known: Any, value: Any) -> None:
        kind = type(known)
        if kind is _Outside:
            self._enter(value)
        elif kind is Ref:
            if self._made.get(id(value)) != known:
                raise _Misfit
        elif kind in (tuple, list, dict):
            self._see_each(known, value)
        elif known is not value and not (kind is type(value) and kind in _VALUES and known == value):
            raise _Misfit

    def _see_each(self, known: Any, values: Any) -> None:
        if type(known) is not type(values) or len(known) != len(values):
            raise _Misfit
        if type(known) is dict:
            if list(known) != list(values):
                raise _Misfit
            known, values = known.values(), values.values()
        made = self._made
        for one, other in zip(known, values, strict=True):
            if one is other:
                continue
            if type(one) is Ref:  # most are, and a call less counts
                if made.get(id(other)) != one:
                    raise _Misfit
            else:
                self._see(one, other)

    def _enter(self, value: Any) -> None:
        """A number, or a tensor that neither this step made nor one before it with a graph of its own.

        What went into a call of the root may have a graph: it is another model's.
        """
        self._new.given.append(value)
        if type(value) in _NUMBERS:
            return
        key = id(value)
        if not isinstance(value, Tensor) or key in self._made:
            raise _Misfit
        version = 0 if value.is_inference() else value._version
        held = self._program.fixed.get(key)
        if value.grad_fn is not None if held is None else held[1] != version:
            raise _Misfit
        self._new.counts.append(version)
        if key not in self._entered:
            self._entered.add(key)
            self._new.bytes += 0 if held is not None else value.nbytes


def _form(value: Any, fixed: dict[int, Any]) -> Any:
    """Nested arguments of a sealed event with `_OUTSIDE` for each tensor that came from outside."""
    kind = type(value)
    if kind is tuple or kind is list:
        return kind([_form(item, fixed) for item in value])
    if kind is dict:
        return {key: _form(item, fixed) for key, item in value.items()}
    is_own = kind is Parameter and id(value) not in fixed
    return _OUTSIDE if kind in _NUMBERS or (isinstance(value, Tensor) and not is_own) else value


def _filled(form: Any, given: Iterator[Any]) -> Any:
    kind = type(form)
    if kind is _Outside:
        return next(given)
    if kind is tuple or kind is list:
        return kind([_filled(item, given) for item in form])
    if kind is dict:
        return {key: _filled(item, given) for key, item in form.items()}
    return form
