"""Entrance: hear of calls of the root and of nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from nanscope.recording.calls import Watcher
from nanscope.recording.compiled import is_transformed
from nanscope.recording.probes import Probes


class Entrance(Probes):
    """Probes that collect nothing, and tell when the root is called."""

    def _made(self, model: nn.Module) -> dict[int, Watcher]:
        return {id(model): Watcher(self._enter)}

    def _enter(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if not self.active or self.in_backward or not (self.stale or self.before is not None):
            return
        try:
            if is_transformed():
                return
            if self.stale and (other := self._renew()) is not None:
                other._enter(model, args, kwargs)
            elif self.before is not None and torch.is_grad_enabled():
                self.before()
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not reach the training
            self._fail(error)
