"""Listeners: they write down which torch functions are called.

Modes are a stack, so the one that all listeners share is put only on an empty one, and taken off only where
it is on top. What it does for each function it does thousands of times a second where steps are small.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any, Protocol

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


class Follower(Protocol):
    """Knows how the step under way should go."""

    def hears(
        self, call: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any, caller: FrameType
    ) -> bool:
        """Whether a call, made in the frame `caller`, is the one that should come next; it is noted then."""

    @property
    def is_past_backward(self) -> bool:
        """Whether it has heard a backward pass."""

    def written(self) -> list[Event]:
        """What it has heard; it is asked nothing more."""


class Listener:
    """Writes the torch functions down that are called while it is on; several may be on at once.

    Attributes:
        events: where to; None to write nothing.
        follower: who is asked first, until a call is another one than it should be; None to write all down.
        owned: ids of the parameters whose gradients are of interest.
        is_on: whether it is among those that listen.
    """

    __slots__ = ("events", "follower", "is_on", "owned")

    def __init__(self) -> None:
        self.events: list[Event] | None = None
        self.follower: Follower | None = None
        self.owned: frozenset[int] = frozenset()
        self.is_on = False

    @property
    def is_full(self) -> bool:
        """Whether more was called than a step is made of."""
        return self.events is not None and len(self.events) > MOST_EVENTS

    @property
    def hears(self) -> bool:
        """Whether it wants to be told of a call."""
        return self.events is not None and len(self.events) <= MOST_EVENTS

    @property
    def is_past_backward(self) -> bool:
        """Whether it has heard a backward pass."""
        if self.follower is not None:
            return self.follower.is_past_backward
        return any(event.is_backward for event in self.events or ())

    def turn_on(self, events: list[Event], follower: Follower | None = None) -> bool:
        """Listen, unless a mode of somebody else is on; whether it does now."""
        ears = _EARS
        if not self.is_on:
            ears.listeners.append(self)
        if not (ears.is_on or ears.covered):
            ears.wake()
        self.is_on = ears.is_on or ears.covered
        if self.is_on:
            self.events, self.follower = events, follower
        else:
            ears.listeners.remove(self)
        return self.is_on

    def turn_off(self) -> None:
        """Listen no more; where another mode lies on top, ours stays and writes nothing."""
        self.events = self.follower = None
        if self.is_on:
            self.is_on = False
            _EARS.listeners.remove(self)
            if _EARS.is_on and not _EARS.listeners:
                _EARS.rest()

    def write(self, event: Event) -> None:
        """Add what is another event than should come next, or if none is known."""
        if self.events is None:
            return
        if self.follower is not None:
            self.events += self.follower.written()
            self.follower = None
        self.events.append(event)


def hush(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Callable[[Any], None] | None:
    """A module is called by no other one: who listens hears one call instead of all that happens in it.

    Returns:
        What is to be called with what the module returns, None if nobody listens.
    """
    if not _EARS.rest():
        return None
    heard = [each for each in _EARS.listeners if each.hears]
    came = trace(sys._getframe(2)) if heard else ()

    def over(output: Any) -> None:
        _EARS.wake()
        if output is not RAISED and heard and is_differentiable(output):
            for each in heard:
                event = event_of(module, args, kwargs, came)
                event.result = output
                each.write(event)

    return over


def hush_forgetting(
    forget: Callable[..., None], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Callable[[], None]:
    """Gradients are forgotten: who has heard a backward pass of theirs in this step hears one call.

    Before it, it is the gradients of the last step that are forgotten.
    """
    if not (_EARS.is_on and _EARS.rest()):
        return _nothing
    past = [each for each in _EARS.listeners if each.is_past_backward]
    if past:
        whose = set(map(id, forgotten(args[0])))
        came = trace(sys._getframe(2))
        for each in past:
            if not whose.isdisjoint(each.owned):
                each.write(Event(forget, args, kwargs, came))
    return wake


def hush_backward(backward: Callable[..., None], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """A backward pass begins: who listens hears one call, and nothing of what hooks do in it.

    Returns:
        Whether anybody was hushed, until `uncover`.
    """
    if not _EARS.rest():
        return False
    caller = sys._getframe(2)
    for each in _EARS.listeners:
        follower = each.follower
        if each.events is None or len(each.events) > MOST_EVENTS:
            continue
        if follower is None or not follower.hears(backward, args, kwargs, None, caller):
            each.write(Event(backward, args, kwargs, trace(caller)))
    _EARS.covered = True
    return True


def uncover() -> None:
    """It is over."""
    _EARS.covered = False
    if _EARS.listeners:
        _EARS.wake()


def _nothing() -> None:
    """Nobody was hushed."""


class _Ears(TorchFunctionMode):
    """The mode that all listeners share.

    Attributes:
        covered: whether a call runs that is already written down, so that nothing in it is to be heard.
        is_on: whether it is on the stack of modes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.listeners: list[Listener] = []
        self.covered = False
        self.is_on = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if is_backward(func):  # written down before: the step may be executed again before it returns
            self._hear_backward(func, args, kwargs, sys._getframe(1))
            return func(*args, **kwargs)
        result = func(*args, **kwargs)
        # all else is a constant later
        if result is None or isinstance(result, Tensor | tuple | list | dict):
            caller = sys._getframe(1)
            for each in self.listeners:
                follower = each.follower
                if each.events is None or len(each.events) > MOST_EVENTS:
                    continue
                if follower is not None and follower.hears(func, args, kwargs, result, caller):
                    continue
                if self._counts(func, caller, each):
                    each.write(Event(func, args, kwargs, trace(caller), result))
        return result

    def _hear_backward(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], caller: FrameType
    ) -> None:
        came = trace(caller)
        for each in self.listeners:
            if each.hears:
                events = each.events
                if events and events[-1].is_backward and not events[-1].trace:
                    events.pop()  # the same one, of which only the roots were told
                each.write(Event(func, args, kwargs, came))

    @staticmethod
    def _counts(func: Any, caller: FrameType, listener: Listener) -> bool:
        """Whether a call is part of the step."""
        code = caller.f_code
        if func in _CHORES or is_ours(code):  # the latter: what the recorder of another model measures
            return False
        # before the first backward pass it is the gradients of the last step that are forgotten
        return not is_optimizers(code) or listener.is_past_backward

    def wake(self) -> None:
        """Hear again if there is a listener."""
        if self.listeners and not (self.is_on or self.covered) and _len_torch_function_stack() == 0:
            _push_on_torch_function_stack(self)  # as `__enter__` does after some more calls
            self.is_on = True

    def rest(self) -> bool:
        """Hear nothing until the next listener comes, or it is waked; whether it has heard until now."""
        if not self.is_on:
            return False
        depth = _len_torch_function_stack()
        if depth and _get_function_stack_at(depth - 1) is self:
            _pop_torch_function_stack()
            self.is_on = False
        return not self.is_on


_EARS = _Ears()
rest = _EARS.rest
"""An update runs, which no listener writes down: it shall not pay for a mode. Gives whether one was on."""
wake = _EARS.wake
"""It is over."""
