"""The floor: what no recorder written in Python can do without, and nothing else.

References to what every module returns, the gradient of each, and the norms of all of it: of small tensors
many steps at once, of large ones as they come. Nothing is compared or detected, no file is written, nothing
is kept for a rewind, and that a gradient follows from its factors at batch 1 is taken for granted. What it
costs beside the bare step is how low a bar can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nanscope.recording import stats
from nanscope.recording.arena import Arena
from nanscope.recording.measure import WAITING_ELEMENTS
from tests.benchmarks.overhead_models import Training
from tests.benchmarks.overhead_rivals import Bare

FLOOR = "floor"


class Floor(Bare):
    """Watches by the same means as `nanscope.record`, without any care."""

    def __init__(self, training: Training, folder: Path) -> None:
        super().__init__(training, folder)
        self.watched = {id(module) for module in training.model.modules()} - {id(training.model)}
        self.kept: list[Tensor] = []
        self.arrived: list[Tensor] = []
        self.arena: Arena | None = None
        self.norms: list[Tensor] = []

    def on(self) -> None:
        """See every call of a module."""
        original = self.original = nn.Module.__call__
        watched, kept, arrived = self.watched, self.kept, self.arrived

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            output = original(module, *args, **kwargs)
            if id(module) in watched and type(output) is Tensor:
                kept.append(output)
                if output.requires_grad:
                    output.register_hook(arrived.append)  # type: ignore[no-untyped-call]
            return output

        nn.Module.__call__ = call  # type: ignore[method-assign]

    def off(self) -> None:
        """See none."""
        nn.Module.__call__ = self.original  # type: ignore[method-assign]

    def step(self) -> None:
        """A step with a look before the update."""
        self.look(self.training.gradients())
        self.training.update()

    def look(self, loss: Tensor) -> None:
        """Take the norms, or put aside what they are of."""
        loss.item()
        gradients = [p.grad for p in self.training.model.parameters() if p.grad is not None]
        alone = len(self.kept[0]) == 1  # then the norm of a matrix of them is a product of two of these
        tensors = [*self.kept, *self.arrived, *[g for g in gradients if g.dim() == 1 or not alone]]
        with torch.no_grad():
            self._take(tensors)
        self.kept.clear()
        self.arrived.clear()

    def _take(self, tensors: Sequence[Tensor]) -> None:
        if sum([tensor.numel() for tensor in tensors]) > WAITING_ELEMENTS:
            self.norms = list(stats.norms(tensors))
            return
        if self.arena is None:
            self.arena = Arena(tuple([tensor.shape for tensor in tensors]), torch.float32)
        if self.arena.full:
            self.arena.norms(0, self.arena.used)
            self.arena.used = 0
        self.arena.put(list(tensors))
