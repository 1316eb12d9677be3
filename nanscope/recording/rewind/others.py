"""Others: a call of a module that is no part of the model whose step it is made in, as one event of it.

Where two models train each other, a call of the one is part of the loss of the other. To hear every function
that is called in it would cost more than the call.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakValueDictionary

from torch import nn

from nanscope.recording.rewind.keeper import room
from nanscope.recording.rewind.tape import Event, Program, tensors_of


class ModuleCall:
    """A module, and which of its arguments are named: it takes all of them in a row."""

    __slots__ = ("__weakref__", "module", "names")

    def __init__(self, module: nn.Module, names: tuple[str, ...]) -> None:
        self.module, self.names = module, names

    def __call__(self, *args: Any) -> Any:
        """Call the module."""
        first = len(args) - len(self.names)
        return self.module(*args[:first], **dict(zip(self.names, args[first:], strict=True)))


_known: WeakValueDictionary[tuple[int, tuple[str, ...]], ModuleCall] = WeakValueDictionary()
"""Steps are compared by what they call: the same call has to be the same thing."""


def event_of(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], came: Any) -> Event:
    """A call of a module as an event without a result."""
    names = tuple(kwargs)
    call = _known.get((id(module), names))
    if call is None or call.module is not module:
        call = _known[id(module), names] = ModuleCall(module, names)
    return Event(call, (*args, *kwargs.values()) if kwargs else args, {}, came)


def is_differentiable(result: Any) -> bool:
    """Whether a gradient can be asked of what a module gave; else it comes from outside of the step."""
    return any(tensor.requires_grad for tensor, _ in tensors_of(result))


@contextmanager
def rooms(programs: Iterable[Program]) -> Iterator[None]:
    """Whatever happens within to the modules that these steps call is undone at the end."""
    calls = [event.call for program in programs for event in program.events]
    others = {id(call.module): call.module for call in calls if isinstance(call, ModuleCall)}
    with ExitStack() as stack:
        for module in others.values():
            stack.enter_context(room(module, ()))
        yield
