"""Quiet: what a recorder does itself is heard by no mode of torch functions, be it ours or the user's.

A mode is asked about each function and each attribute of a tensor. While the listener of one model is on, the
hooks of another would go through it thousands of times.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch._C import DisableTorchFunction, _EnableTorchFunction, _len_torch_function_stack

_NOTHING = nullcontext()


def quiet() -> AbstractContextManager[Any]:
    """A block that no mode hears."""
    return DisableTorchFunction() if _len_torch_function_stack() else _NOTHING


def loud() -> AbstractContextManager[Any]:
    """A block within a quiet one in which the program runs again."""
    return _EnableTorchFunction()
