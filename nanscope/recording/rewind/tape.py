"""Tape: what happened in a step of an ordinary loop, so that it can be executed again.

A step is a list of events: calls of the root module with what went in, torch functions that the user called
between them and the backward pass (the loss), the backward pass, and the updates of the optimizers. Between
the end of a forward pass and the update a `TorchFunctionMode` listens; modes are a stack, so it is put only
on an empty one and taken off only where it is on top. It costs a microsecond or two per function of the loss.

Tensors that were made within the step are written down as references to the event that made them, so that
nothing of a past step but its inputs stays alive.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch._C import _len_torch_function_stack
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode, _get_current_function_mode

MOST_EVENTS = 10_000  # of a step; what has more cannot be executed again
DEEPEST = 4  # frames of the user's that are kept of a call
BACKWARDS = (Tensor.backward, getattr(torch.autograd.backward, "__wrapped__", torch.autograd.backward))
_HOME = str(Path(torch.__file__).parent)
_OURS = str(Path(__file__).parents[1])
_STANDARD = str(Path(functools.__file__).parent) + os.sep + "contextlib"

_PLAIN = frozenset((int, float, bool, str, type(None), torch.nn.Parameter))  # nothing that a step made

T = TypeVar("T")

_USERS: dict[CodeType, bool] = {}  # whether code is the user's
_OWN: dict[CodeType, bool] = {}  # whether it is a recorder's

Frame = tuple[str, int, str]
"""File, line and function."""

Trace = tuple[tuple[CodeType, int], ...]
"""Code and instruction of frames, innermost first: their lines cost as much as all else of an event."""


StatePlace = tuple[Optimizer, Tensor, str]
"""Where an optimizer keeps a tensor of its state: of which parameter, under which name."""


class Ref(NamedTuple):
    """A tensor that an event of the same step gave, `item` of a sequence of them."""

    event: int
    item: int | None = None


@dataclass(slots=True, eq=False)
class Context:
    """What a call of the root depends on beside its arguments.

    Attributes:
        rng: state of torch's CPU generator, and those of the CUDA devices in use.
        autocast: dtype by device type, where autocast was on.
        others: states of Python's and of numpy's generator, if the forward pass may draw from them.
    """

    rng: Tensor
    cuda: tuple[Tensor, ...]
    autocast: dict[str, torch.dtype]
    others: tuple[Any, Any] | None = None


@dataclass(slots=True, eq=False)
class Event:
    """One event.

    Attributes:
        call: the torch function, or a module of the model; None for a call of the root.
        context: of a call of a module.
        result: what it gave, until the step is over.
        trace: the user's frames, innermost first.
        optimizer: whose update this is, `settings` of its groups before it.
        poked: tensors that somebody wrote into from outside of the step, with what they held then.
    """

    call: Callable[..., Any] | None
    args: Any
    kwargs: Any
    trace: Trace = ()
    result: Any = None
    context: Context | None = None
    optimizer: Optimizer | None = None
    settings: tuple[dict[str, Any], ...] = ()
    poked: Sequence[tuple[Tensor | StatePlace, Tensor]] = ()

    @property
    def where(self) -> tuple[Frame, ...]:
        """The user's frames, innermost first."""
        return tuple((code.co_filename, _line(code, at), code.co_name) for code, at in self.trace)

    @property
    def is_backward(self) -> bool:
        """Whether it is a backward pass."""
        return is_backward(self.call)


def _unheard(look: Callable[[Program], T]) -> Callable[[Program], T]:
    """A look at many tensors, which the listeners of other models would be told of one by one."""

    @functools.wraps(look)
    def unheard(self: Program) -> T:
        with torch._C.DisableTorchFunction():
            return look(self)

    return unheard


@dataclass(slots=True, eq=False)
class Program:
    """A step, as it can be executed again.

    Attributes:
        fixed: tensors from outside of the step, with the count of writes into each.
        rows: samples that went in.
        training: of every module of the model, in order, whether it was in training.
        graded: of every parameter of the model, whether it required a gradient.
        loss: the sum of the losses, as far as they are known.
        is_open: whether it was left before its update.
        sealed: whether the events hold nothing that the step made.
    """

    number: int
    events: list[Event] = field(default_factory=list)
    fixed: dict[int, tuple[Tensor, int]] = field(default_factory=dict)
    rows: int = 0
    training: Sequence[bool] = ()
    graded: Sequence[bool] = ()
    loss: float | None = None
    is_open: bool = False
    sealed: bool = False
    bytes: int = 0

    @property
    def lacks(self) -> str:
        """Why it cannot be executed again; empty if it can."""
        backwards = [event for event in self.events if event.is_backward]
        if len(self.events) > MOST_EVENTS:
            return "the step calls too many functions"
        if self.is_open:
            return ""
        if not backwards and any(event.call is torch.autograd.grad for event in self.events):
            return ""
        if not backwards:
            return "the step has no backward pass"
        roots = backwards[0].args[0]
        if not all(type(root) is Ref for root in (roots if type(roots) in (tuple, list) else (roots,))):
            return "how the loss was made of what the model returned could not be heard"
        return ""

    @property
    def inputs(self) -> list[Tensor]:
        """What went into the root from outside."""
        held = [(event.args, event.kwargs) for event in self.events if event.context is not None]
        return [tensor for tensor in _leaves(held) if id(tensor) in self.fixed]

    @property
    def targets(self) -> list[Tensor]:
        """What else came from outside."""
        entered = set(map(id, self.inputs))
        return [tensor for key, (tensor, _) in self.fixed.items() if key not in entered]

    @property
    def batch(self) -> dict[str, list[Tensor]]:
        """What came from outside, without graphs."""
        named = {"inputs": self.inputs, "targets": self.targets}
        return {name: [tensor.detach() for tensor in tensors] for name, tensors in named.items()}

    def see(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Note what goes into a call of the root."""
        for value in (*args, *kwargs.values()):
            for tensor in (value,) if type(value) is Tensor else _leaves(value):
                self.fixed.setdefault(
                    id(tensor), (tensor, tensor._version if not tensor.is_inference() else 0)
                )
                if not self.rows and tensor.dim():
                    self.rows = tensor.shape[0]

    @_unheard
    def seal(self) -> None:
        """Let go of everything that the step itself made."""
        if self.sealed:
            return
        made: dict[int, Ref] = {}
        held = []  # ids stay unique until all are named
        for number, event in enumerate(self.events):
            event.args = self._named(event.args, made)
            if event.kwargs:
                event.kwargs = self._named(event.kwargs, made)
            result, event.result = event.result, None
            held.append(result)
            if type(result) is Tensor:
                made[id(result)] = Ref(number)
            elif result is not None:
                for tensor, item in _tensors(result):
                    made[id(tensor)] = Ref(number, item)
        self.sealed, self.bytes = True, sum([tensor.nbytes for tensor, _ in self.fixed.values()])
        del held

    @property
    def is_called(self) -> bool:
        """Whether the root was called in it."""
        return any(event.context is not None for event in self.events)

    @property
    def is_broken(self) -> bool:
        """Whether a single number that was made of what the root returned, or that itself, is not finite."""
        calls = [i for i, event in enumerate(self.events) if event.context is not None]
        if self.sealed or not calls:
            return False
        outputs = [t for event in self.events if event.context is not None for t in _leaves(event.result)]
        numbers = [e.result for e in self.events[calls[0] :] if isinstance(e.result, Tensor)]
        numbers = [t for t in numbers if t.numel() == 1 and t.is_floating_point()]
        return any(bool(t.isnan().any()) for t in outputs if t.is_floating_point()) or not all(
            bool(torch.isfinite(t).all()) for t in numbers
        )

    @property
    @_unheard
    def reaches_back(self) -> bool:
        """Whether it used tensors that were computed before the root was called, beside what went into it."""
        entered = set(map(id, self.inputs))
        return any(t.grad_fn is not None for key, (t, _) in self.fixed.items() if key not in entered)

    @_unheard
    def overwritten(self) -> bool:
        """Whether somebody wrote into what went in, after it did."""
        return any(
            tensor._version != version for tensor, version in self.fixed.values() if not tensor.is_inference()
        )

    def _named(self, value: Any, made: Mapping[int, Ref]) -> Any:
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind is Tensor or isinstance(value, Tensor):
            ref = made.get(id(value))
            if ref is not None:
                return ref
            if id(value) not in self.fixed:
                self.fixed[id(value)] = value, 0 if value.is_inference() else value._version
            return value
        if kind is tuple or kind is list:
            return kind([self._named(item, made) for item in value])
        if kind is dict:
            return {key: self._named(item, made) for key, item in value.items()}
        return value


def _leaves(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _leaves(item)


def _tensors(result: Any) -> Iterator[tuple[Tensor, int | None]]:
    if isinstance(result, Tensor):
        yield result, None
    elif isinstance(result, tuple | list):
        yield from ((item, i) for i, item in enumerate(result) if isinstance(item, Tensor))
    elif isinstance(result, Mapping):
        yield from ((item, key) for key, item in result.items() if isinstance(item, Tensor))


class Differentiable(list[Event]):
    """Events whose result a gradient can be asked of: to make the data ready is none of them."""

    def append(self, event: Event) -> None:
        """Add one of those, forget any other."""
        if any(tensor.grad_fn is not None for tensor, _ in _tensors(event.result)):
            super().append(event)


class Listener:
    """Writes the torch functions down that are called while it is on; several may be on at once.

    Attributes:
        events: where to; None to write nothing.
    """

    def __init__(self) -> None:
        self.events: list[Event] | None = None

    @property
    def is_full(self) -> bool:
        """Whether more was called than a step is made of."""
        return self.events is not None and len(self.events) > MOST_EVENTS

    def turn_on(self) -> bool:
        """Listen, unless a mode of somebody else is on; whether it does now."""
        return _EARS.turn_on(self)

    def turn_off(self) -> None:
        """Listen no more."""
        self.events = None
        _EARS.turn_off(self)


class _Ears(TorchFunctionMode):
    """The mode that all listeners share: modes are a stack, and only on an empty one it may be put."""

    def __init__(self) -> None:
        super().__init__()
        self._listeners: list[Listener] = []
        self._on = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        written = [each.events for each in self._listeners if each.events is not None and not each.is_full]
        if not written:
            return func(*args, **kwargs)
        if is_backward(func):  # written down before: the step may be executed again before it returns
            came = trace(sys._getframe(1))
            for events in written:
                if events and events[-1].is_backward and not events[-1].trace:
                    events.pop()  # the same one, of which only the roots were told
                events.append(Event(func, args, kwargs, came))
            return func(*args, **kwargs)
        result = func(*args, **kwargs)
        if is_ours(sys._getframe(1).f_code):  # what the recorder of another model measures
            return result
        if result is None or isinstance(result, Tensor | tuple | list | dict):  # all else is a constant later
            came = trace(sys._getframe(1))
            for events in written:
                events.append(Event(func, args, kwargs, came, result))
        return result

    def turn_on(self, listener: Listener) -> bool:
        """One more listens."""
        if not self._on and _len_torch_function_stack() == 0:
            self.__enter__()  # type: ignore[no-untyped-call]
            self._on = True
        if self._on and not any(each is listener for each in self._listeners):
            self._listeners.append(listener)
        return self._on

    def turn_off(self, listener: Listener) -> None:
        """One less; where another mode lies on top it stays and writes nothing."""
        self._listeners = [each for each in self._listeners if each is not listener]
        if self._listeners or not self._on:
            return
        if _len_torch_function_stack() and _get_current_function_mode() is self:  # type: ignore[no-untyped-call]
            self.__exit__(None, None, None)
            self._on = False


_EARS = _Ears()


def is_backward(call: Any) -> bool:
    """Whether a function runs a backward pass; the recorder's own patch of it does, too."""
    return call in BACKWARDS or getattr(call, "__wrapped__", None) in BACKWARDS


def is_users(code: CodeType) -> bool:
    """Whether code is neither torch's nor ours."""
    users = _USERS.get(code)
    if users is None:
        users = _USERS[code] = not code.co_filename.startswith((_HOME, _OURS, "<frozen", _STANDARD))
    return users


def is_ours(code: CodeType) -> bool:
    """Whether code is a recorder's."""
    ours = _OWN.get(code)
    if ours is None:
        ours = _OWN[code] = code.co_filename.startswith(_OURS)
    return ours


def trace(frame: FrameType | None) -> Trace:
    """The innermost frames that are neither torch's nor ours, innermost first."""
    found: list[tuple[CodeType, int]] = []
    while frame is not None and len(found) < DEEPEST:
        code = frame.f_code
        if is_users(code):
            found.append((code, frame.f_lasti))
        frame = frame.f_back
    return tuple(found)


def _line(code: CodeType, at: int) -> int:
    """The line of an instruction."""
    lines = (line for begin, end, line in code.co_lines() if begin <= at < end)
    return next(lines, None) or code.co_firstlineno
