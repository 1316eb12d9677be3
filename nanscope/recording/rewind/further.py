"""What is looked at once the origin is known: the curvature before it, and what would have prevented it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from nanscope.recording.rewind.inquiry import Snapshot, clear_gradients
from nanscope.recording.rewind.remedies import Trial
from nanscope.recording.rewind.rerun import Rerun
from nanscope.recording.rewind.sharpness import sharpness
from nanscope.recording.rewind.tape import Program

MOST_ELEMENTS = 20_000_000  # of parameters; a larger model's curvature takes too long
SECONDS = 1.0  # of one step; a longer one is not executed thirty times


class Further:
    """Of one bad step; within a `room`.

    Args:
        snapshot: a sound state before it.
        programs: the steps up to it.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        snapshot: Snapshot,
        programs: Sequence[Program],
    ) -> None:
        self._model, self._optimizers, self._snapshot, self._programs = model, optimizers, snapshot, programs

    def sharpness(self) -> dict[str, Any] | None:
        """Fields of the event: the largest eigenvalue of the Hessian at the snapshot, and what it may be.

        None for a large model, a loss that cannot be differentiated twice, and optimizers that are not
        plain gradient descent, whose limit is another one.
        """
        program = next(p for p in self._programs if p.number >= self._snapshot.number)
        group = self._optimizers[0].param_groups[0] if self._optimizers else {}
        lr, momentum = group.get("lr"), group.get("momentum", 0.0)
        kind = type(self._optimizers[0]).__name__ if self._optimizers else ""
        if kind != "SGD" or not isinstance(lr, float) or not (math.isfinite(lr) and lr > 0):
            return None
        if sum(p.numel() for p in self._model.parameters()) > MOST_ELEMENTS:
            return None
        self._snapshot.state.put()
        clear_gradients(self._model, self._optimizers)
        began = time.monotonic()
        loss = Rerun(self._model).objective(program)
        if loss.numel() != 1 or time.monotonic() - began > SECONDS:
            return None
        found = sharpness(loss, list(self._model.parameters()))
        if found is None or not math.isfinite(found.value * found.residual):
            return None
        return {
            "sharpness": found.value,
            "iterations": found.iterations,
            "residual": found.residual,
            "lr": lr,
            "momentum": momentum,
            "threshold": 2 * (1 + momentum) / lr,
            "loss": float(loss.detach()),
        }

    def remedies(self, origin: Mapping[str, Any]) -> dict[str, Any] | None:
        """Fields of the event: what was tried, and what came of it."""
        return Trial(self._model, self._optimizers, self._snapshot, self._programs).fields(origin)
