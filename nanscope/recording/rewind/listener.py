"""Listeners: they write down which torch functions are called.

Modes are a stack, so the one that all listeners share is put only on an empty one, and taken off only where
it is on top. What it does for each function it does thousands of times a second where steps are small.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import (
    _get_function_stack_at,
    _len_torch_function_stack,
    _pop_torch_function_stack,
    _push_on_torch_function_stack,
)
from torch.overrides import TorchFunctionMode

from nanscope.recording.calls import RAISED
from nanscope.recording.forgetting import forgotten
from nanscope.recording.rewind.frames import is_optimizers, is_ours, trace
from nanscope.recording.rewind.others import event_of, is_differentiable
from nanscope.recording.rewind.tape import MOST_EVENTS, Event, is_backward, tensors_of

# what torch's profiler does around every update and every `zero_grad`
_CHORES = frozenset(
    (torch.ops.profiler._record_function_enter_new, torch.ops.profiler._record_function_exit._RecordFunction)
)


class Differentiable(list[Event]):
    """Events whose result a gradient can be asked of: to make the data ready is none of them."""

    def append(self, event: Event) -> None:
        """Add one of those, forget any other."""
        if any(tensor.grad_fn is not None for tensor, _ in tensors_of(event.result)):
            super().append(event)


class Listener:
    """Writes the torch functions down that are called while it is on; several may be on at once.

    Attributes:
        events: where to; None to write nothing.
        owned: ids of the parameters whose gradients are of interest.
    """

    __slots__ = ("events", "owned")

    def __init__(self) -> None:
        self.events: list[Event] | None = None
        self.owned: frozenset[int] = frozenset()

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


def rest() -> bool:
    """An update runs, which no listener writes down: it shall not pay for a mode. Whether one was on."""
    return _EARS.rest()


def wake() -> None:
    """It is over."""
    _EARS.wake()


def hush(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Callable[[Any], None] | None:
    """A module is called by no other one: who listens hears one call instead of all that happens in it.

    Returns:
        What is to be called with what the module returns, None if nobody listens.
    """
    if not _EARS.rest():
        return None
    heard = _EARS.heard()
    came = trace(sys._getframe(2)) if heard else ()

    def over(output: Any) -> None:
        _EARS.wake()
        if output is not RAISED and heard and is_differentiable(output):
            for events in heard:
                event = event_of(module, args, kwargs, came)
                event.result = output
                events.append(event)

    return over


def hush_forgetting(
    forget: Callable[..., None], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Callable[[], None]:
    """Gradients are forgotten: who has heard a backward pass of theirs in this step hears one call.

    Before it, it is the gradients of the last step that are forgotten.
    """
    hushed = _EARS.rest()
    if hushed and any(each.events for each in _EARS.listeners):
        whose = set(map(id, forgotten(args[0])))
        came = trace(sys._getframe(2))
        for each in _EARS.listeners:
            events = each.events
            if events and not whose.isdisjoint(each.owned) and any(event.is_backward for event in events):
                events.append(Event(forget, args, kwargs, came))
    return wake if hushed else _nothing


def hush_backward(
    backward: Callable[..., None], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Callable[[], None]:
    """A backward pass begins: who listens hears one call, and nothing of what hooks do in it."""
    if not _EARS.rest():
        return _nothing
    heard = _EARS.heard()
    came = trace(sys._getframe(2)) if heard else ()
    for events in heard:
        events.append(Event(backward, args, kwargs, came))
    _EARS.covered = True
    return _uncover


def _uncover() -> None:
    _EARS.covered = False
    _EARS.wake()


def _nothing() -> None:
    """Nobody was hushed."""


class _Ears(TorchFunctionMode):
    """The mode that all listeners share.

    Attributes:
        covered: whether a call runs that is already written down, so that nothing in it is to be heard.
    """

    def __init__(self) -> None:
        super().__init__()
        self.listeners: list[Listener] = []
        self.covered = False
        self._on = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        heard = self.heard()
        if not heard:
            return func(*args, **kwargs)
        if is_backward(func):  # written down before: the step may be executed again before it returns
            came = trace(sys._getframe(1))
            for events in heard:
                if events and events[-1].is_backward and not events[-1].trace:
                    events.pop()  # the same one, of which only the roots were told
                events.append(Event(func, args, kwargs, came))
            return func(*args, **kwargs)
        result = func(*args, **kwargs)
        if func in _CHORES:
            return result
        if result is None or isinstance(result, Tensor | tuple | list | dict):  # all else is a constant later
            caller = sys._getframe(1)
            if not is_ours(caller.f_code):  # what the recorder of another model measures
                forgets = is_optimizers(caller.f_code)
                came = trace(caller)
                for events in heard:
                    # before the first backward pass it is the gradients of the last step that are forgotten
                    if not forgets or any(event.is_backward for event in events):
                        events.append(Event(func, args, kwargs, came, result))
        return result

    def heard(self) -> list[list[Event]]:
        """Where what is called now is to be written down."""
        return [e for each in self.listeners if (e := each.events) is not None and len(e) <= MOST_EVENTS]

    def turn_on(self, listener: Listener) -> bool:
        """One more listens."""
        if listener not in self.listeners:
            self.listeners.append(listener)
        self.wake()
        hears = self._on or self.covered
        if not hears:
            self.listeners.remove(listener)
        return hears

    def turn_off(self, listener: Listener) -> None:
        """One less; where another mode lies on top it stays and writes nothing."""
        if listener in self.listeners:
            self.listeners.remove(listener)
        if not self.listeners:
            self.rest()

    def wake(self) -> None:
        """Hear again if there is a listener."""
        if self.listeners and not (self._on or self.covered) and _len_torch_function_stack() == 0:
            _push_on_torch_function_stack(self)  # as `__enter__` does after some more calls
            self._on = True

    def rest(self) -> bool:
        """Hear nothing until the next listener comes, or it is waked; whether it has heard until now."""
        if not self._on:
            return False
        depth = _len_torch_function_stack()
        if depth and _get_function_stack_at(depth - 1) is self:
            _pop_torch_function_stack()
            self._on = False
        return not self._on


_EARS = _Ears()
