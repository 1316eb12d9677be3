"""What is looked at once the origin is known: the curvature before it, and what would have prevented it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from nanscope.recording.rewind.counters import Counters
from nanscope.recording.rewind.inquiry import Snapshot, clear_gradients
from nanscope.recording.rewind.remedies import Trial
from nanscope.recording.rewind.rerun import Rerun
from nanscope.recording.rewind.sharpness import sharpness
from nanscope.recording.rewind.tape import Program

MOST_ELEMENTS = 20_000_000  # of parameters; a larger model's curvature takes too long
BATCHES = 16  # after the snapshot; single samples differ much
SECONDS = 1.0  # of one step; a longer one is not executed thirty times


class Further:
    """Of one bad step; within a `room`.

    Args:
        snapshots: sound states before it, oldest first.
        programs: the steps up to it; one of them at least since the newest snapshot.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        snapshots: Sequence[Snapshot],
        programs: Sequence[Program],
    ) -> None:
        self._model, self._optimizers = model, optimizers
        self._snapshots, self._programs = snapshots, programs
        self._counters = Counters(model)

    def sharpness(self) -> dict[str, Any] | None:
        """Fields of the event: the largest eigenvalue of the Hessian at the newest snapshot, and its limit.

        The loss is that of one of the next batches: the first on which the limit is passed, else the one on
        which it is most nearly. None for a large model, a loss that cannot be differentiated twice, and
        optimizers that are not plain gradient descent, whose limit is another one.
        """
        group = self._optimizers[0].param_groups[0] if self._optimizers else {}
        lr, momentum = group.get("lr"), group.get("momentum", 0.0)
        kind = type(self._optimizers[0]).__name__ if self._optimizers else ""
        if kind != "SGD" or not isinstance(lr, float) or not (math.isfinite(lr) and lr > 0):
            return None
        if sum(p.numel() for p in self._model.parameters()) > MOST_ELEMENTS:
            return None
        snapshot, threshold = self._snapshots[-1], 2 * (1 + momentum) / lr
        found: dict[str, Any] | None = None
        until = time.monotonic() + SECONDS
        for program in [p for p in self._programs if p.number >= snapshot.number][:BATCHES]:
            one = self._sharpness(snapshot, program)
            if one is not None and (found is None or one["sharpness"] > found["sharpness"]):
                found = one
            if time.monotonic() > until or (found is not None and found["sharpness"] > threshold):
                break
        return found and found | {"lr": lr, "momentum": momentum, "threshold": threshold}

    def _sharpness(self, snapshot: Snapshot, program: Program) -> dict[str, Any] | None:
        """Of the loss on the batch of one step."""
        snapshot.state.put()
        clear_gradients(self._model, self._optimizers)
        began = time.monotonic()
        loss = Rerun(self._model).objective(program)
        if loss.numel() != 1 or time.monotonic() - began > SECONDS:
            return None
        found = sharpness(loss, list(self._model.parameters()))
        if found is None or not math.isfinite(found.value * found.residual):
            return None
        return {
            "batch_of": program.number,
            "sharpness": found.value,
            "iterations": found.iterations,
            "residual": found.residual,
            "loss": float(loss.detach()),
        }

    def remedies(self, origin: Mapping[str, Any]) -> dict[str, Any] | None:
        """Fields of the event: what was tried, and what came of it."""
        self._counters.restore()
        return Trial(self._model, self._optimizers, self._snapshots[0], self._programs).fields(origin)
