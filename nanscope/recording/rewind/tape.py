"""Tape: what happened in a step of an ordinary loop, so that it can be executed again.

A step is a list of events: calls of the root module with what went in, torch functions that the user called
between them and the backward pass (the loss), the backward pass, and the updates of the optimizers. Between
the end of a forward pass and the update a `Listener` is on.

Tensors that were made within the step are written down as references to the event that made them, so that
nothing of a past step but its inputs stays alive.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from nanscope.recording.finite import is_finite
from nanscope.recording.rewind.frames import Frame, Trace, lines

MOST_EVENTS = 10_000  # of a step; what has more cannot be executed again
BACKWARDS = (Tensor.backward, getattr(torch.autograd.backward, "__wrapped__", torch.autograd.backward))
_PLAIN = frozenset((int, float, bool, str, type(None), torch.nn.Parameter))  # nothing that a step made

# to ask a function for what it has not takes a microsecond
_runs_backward: dict[FunctionType, bool] = {}

StatePlace = tuple[Optimizer, Tensor, str]
"""Where an optimizer keeps a tensor of its state: of which parameter, under which name."""


class Ref(NamedTuple):
    """A tensor that an event of the same step gave, `item` of a sequence of them; see `tensors_of`."""

    event: int
    item: Any = None


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
        return lines(self.trace)

    @property
    def is_backward(self) -> bool:
        """Whether it is a backward pass."""
        return is_backward(self.call)


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
        reaches_back: whether it used tensors that were computed before the root was called, beside what went
            into it; known when it is sealed.
        bytes: of what came from outside.
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
    reaches_back: bool = False
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
        for value in (*args, *kwargs.values()) if kwargs else args:
            for tensor in (value,) if type(value) is Tensor else _leaves(value):
                self._hold(tensor)
                if not self.rows and tensor.dim():
                    self.rows = tensor.shape[0]

    def _hold(self, tensor: Tensor) -> bool:
        """Keep what comes from outside; whether it was not known."""
        if id(tensor) in self.fixed:
            return False
        self.fixed[id(tensor)] = tensor, 0 if tensor.is_inference() else tensor._version
        self.bytes += tensor.nbytes
        return True

    def cut(self) -> list[Event]:
        """Take off, and give, what was called after the last update; nothing if the root was not among it.

        Two models in turn, each with its optimizer: the second is called before it is known that the step of
        the first is over.
        """
        last = max((i for i, event in enumerate(self.events) if event.optimizer is not None), default=None)
        rest = [] if last is None else self.events[last + 1 :]
        if last is None or not any(event.context is not None for event in rest):
            return []
        if asks_for_closure(self.events[last].optimizer):  # which called for all of it
            return []
        del self.events[last + 1 :]
        return rest

    def seal(self) -> None:
        """Let go of everything that the step itself made."""
        if self.sealed:
            return
        made: dict[int, Ref] = {}
        held = []  # ids stay unique until all are named
        with torch._C.DisableTorchFunction():  # the listeners of other models would be told of each look
            for number, event in enumerate(self.events):
                if event.args:
                    event.args = self._named(event.args, made)
                if event.kwargs:
                    event.kwargs = self._named(event.kwargs, made)
                result = event.result
                if result is None:
                    continue
                event.result = None
                held.append(result)
                if type(result) is Tensor:
                    made[id(result)] = Ref(number)
                else:
                    made.update({id(tensor): Ref(number, item) for tensor, item in tensors_of(result)})
        self.sealed = True
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
        is_nan = any(bool(t.isnan().any()) for t in outputs if t.is_floating_point())
        return is_nan or not all(map(is_finite, numbers))

    def overwritten(self) -> bool:
        """Whether somebody wrote into what went in, after it did."""
        with torch._C.DisableTorchFunction():
            return any(
                tensor._version != was for tensor, was in self.fixed.values() if not tensor.is_inference()
            )

    def _named(self, value: Any, made: Mapping[int, Ref]) -> Any:
        """Nested values with what the step made replaced by references to it."""
        kind = type(value)
        if kind in _PLAIN or (kind is dict and _PLAIN.issuperset(map(type, value.values()))):
            return value
        if kind is Tensor or isinstance(value, Tensor):
            ref = made.get(id(value))
            if ref is not None:
                if id(value) in self.fixed and value.grad_fn is not None:
                    del self.fixed[id(value)]  # one call of the root gave it to another
                return ref
            if self._hold(value) and value.grad_fn is not None:
                self.reaches_back = True
            return value
        if kind is tuple or kind is list:
            return kind([self._named(item, made) for item in value])
        if kind is dict:
            return {key: self._named(item, made) for key, item in value.items()}
        return value


def _leaves(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists, dicts and dataclasses."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _leaves(item)
    elif is_dataclass(value):
        for each in fields(value):
            yield from _leaves(getattr(value, each.name, None))


class Path(tuple[Any, ...]):
    """Keys that lead to a tensor in sequences and mappings within each other."""

    __slots__ = ()


def tensors_of(result: Any) -> Iterator[tuple[Tensor, Any]]:
    """The tensors that a call gave, each with where in a sequence or mapping it is; None if it is all."""
    if isinstance(result, Tensor):
        yield result, None
    elif isinstance(result, tuple | list):
        for i, item in enumerate(result):
            yield from _tensors_below(i, item)
    elif isinstance(result, Mapping):
        for key, item in result.items():
            yield from _tensors_below(key, item)


def _tensors_below(key: Any, item: Any) -> Iterator[tuple[Tensor, Any]]:
    if isinstance(item, Tensor):
        yield item, key
    elif isinstance(item, tuple | list | Mapping):
        yield from (
            (tensor, Path((key, *at) if type(at) is Path else (key, at))) for tensor, at in tensors_of(item)
        )


def item_of(result: Any, at: Any) -> Any:
    """What is there in the result of a call."""
    if at is None:
        return result
    for key in at if type(at) is Path else (at,):
        result = result[key]
    return result


def asks_for_closure(optimizer: Optimizer | None) -> bool:
    """Whether an optimizer cannot step without one, as LBFGS."""
    return optimizer is not None and _needs_closure(type(optimizer).step)


@functools.lru_cache(maxsize=256)
def _needs_closure(step: Callable[..., Any]) -> bool:
    """To read a signature takes as long as a small step."""
    parameter = inspect.signature(step).parameters.get("closure")
    return parameter is not None and parameter.default is inspect.Parameter.empty


def is_backward(call: Any) -> bool:
    """Whether a function runs a backward pass; the recorder's own patch of it does, too."""
    if type(call) is not FunctionType:
        return getattr(call, "__wrapped__", None) in BACKWARDS
    runs = _runs_backward.get(call)
    if runs is None:
        runs = _runs_backward[call] = call in BACKWARDS or getattr(call, "__wrapped__", None) in BACKWARDS
    return runs
