"""Notices that a module or a parameter was registered somewhere: a model may have grown.

Looking through the model at every step would cost more than all norms of a small one; torch calls these hooks
when it happens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.modules import module as every_module


class Registrations:
    """Calls `notice` whenever any module gets a submodule or a parameter, until removed."""

    def __init__(self, notice: Callable[[], None]) -> None:
        def registered(_owner: nn.Module, _name: str, _registered: Any) -> None:
            notice()

        self._handles = [
            every_module.register_module_module_registration_hook(registered),
            every_module.register_module_parameter_registration_hook(registered),
        ]

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
