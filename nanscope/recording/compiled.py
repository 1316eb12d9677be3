"""What torch.compile makes of a model: a wrapper around it, or a module that calls itself compiled."""

from __future__ import annotations

from typing import cast

from torch import nn

from nanscope.recording.calls import WRAPPER


def unwrapped(model: nn.Module) -> nn.Module:
    """The module in the wrapper that `torch.compile(module)` returns; any other module itself."""
    return cast("nn.Module", model._orig_mod) if type(model).__name__ == WRAPPER else model


def is_compiled(model: nn.Module) -> bool:
    """Whether some modules of a model are called within a compiled graph, where no call of them is told."""
    return any(_is_compiled(module) for module in model.modules())


def _is_compiled(module: nn.Module) -> bool:
    return type(module).__name__ == WRAPPER or module._compiled_call_impl is not None
