"""Quiet: what a recorder does itself is heard by no mode of torch functions, be it ours or the user's.

A mode is asked about each function and each attribute of a tensor. While the listener of one model is on, the
hooks of another would go through it thousands of times.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from torch._C import DisableTorchFunction, _EnableTorchFunction, _len_torch_function_stack

T = TypeVar("T")

heard_by_modes = _len_torch_function_stack
"""How many modes would be asked about a function that is called now."""


def quietly(call: Callable[..., object], *args: Any) -> None:
    """Call something that no mode is to hear; where there is none it costs nothing."""
    if _len_torch_function_stack():
        with DisableTorchFunction():
            call(*args)
    else:
        call(*args)


def quiet(call: Callable[..., T], *args: Any) -> T:
    """The same for what gives something."""
    if _len_torch_function_stack():
        with DisableTorchFunction():
            return call(*args)
    return call(*args)


def loud() -> AbstractContextManager[Any]:
    """A block within a quiet call in which the program runs again."""
    return _EnableTorchFunction()
