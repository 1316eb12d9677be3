"""A reading: what is known of one backward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanscope.recording import stats
from nanscope.recording.arena import TINY, Slot
from nanscope.recording.passes import NOTHING
from nanscope.recording.plan import Plan

Doubles = NDArray[np.float64]


@dataclass(slots=True, eq=False)
class Reading:
    """One backward pass: its tensors until it is measured, its numbers from then on.

    Attributes:
        known: norms that were taken at once; they come first in the plan.
        slot: copies of the tensors whose norms are still to be taken.
        peaks: largest absolute values.
        losses: the tensors given to backward(), each a single number.
        logits: per pass the logits with the count of writes into them, or their `stats.logit_stats`.
        samples: rows of all passes.
        logits_at: which of the copied tensors is the logits, if one is; then `predicted` is to be their
            `stats.logit_stats`.
        numbers: see `Plan`; None until measured. `loss` is the sum of the losses, None without any.
        exact: what was examined because its norm was not finite, by its index in the plan's `order`.
        dead: dead fraction by place, if a window was completed with this reading.
        broken: whether something in it is known to be non-finite.
        suspect: whether something in the copied tensors may be.
        arrived: on a GPU everything is measured at once and travels to the host as `known`, until this event.
    """

    plan: Plan
    known: Tensor
    slot: Slot | None
    peaks: list[Tensor]
    losses: list[Tensor]
    logits: list[tuple[Tensor, int]]
    samples: int
    numbers: Doubles | None = None
    loss: float | None = None
    logits_at: int | None = None
    predicted: Doubles | None = None
    exact: dict[int, stats.Exact] = field(default_factory=dict)
    dead: Mapping[int, float] = field(default_factory=dict)
    broken: bool = False
    suspect: bool = False
    arrived: torch.cuda.Event | None = None

    @property
    def ready(self) -> bool:
        """Whether it can be measured without waiting for a device."""
        return self.arrived is None or bool(self.arrived.query())  # type: ignore[no-untyped-call]


def joined(parts: list[Tensor]) -> Tensor:
    """Vectors of numbers one behind the other, on the device of the first."""
    if len(parts) == 1:
        return parts[0]
    home = parts[0].device
    return torch.cat([part if part.device == home else part.to(home, non_blocking=True) for part in parts])


def weigh(reading: Reading) -> None:
    """Read the losses, and let go of them: each holds what is left of its graph."""
    if reading.losses:
        reading.loss = 0.0
        for loss in reading.losses:
            reading.loss += loss.item()
        reading.broken = not math.isfinite(reading.loss)
        reading.losses = []


def sealed(reading: Reading, sources: Callable[[], Sequence[Tensor | None]]) -> Reading:
    """Look at what is known now; in Python, for each of torch's functions brings code of its own.

    Args:
        sources: gives what each norm of the plan's `order` is of, as far as they are known; None where that
            was already examined.
    """
    weigh(reading)
    if not len(reading.known):
        return reading
    norms = reading.known.tolist()
    if not math.isfinite(sum(norms)) or min(norms) < TINY:
        taken, tensors = norms[: len(reading.plan.places)], sources()
        if reading.slot is None:
            taken += [norms[i] * (1.0 if j is None else norms[j]) for _, i, j in reading.plan.derived]
        for i, norm in enumerate(taken):
            if not math.isfinite(norm) or 0 < norm < TINY:
                _examine(reading, i, tensors[i])
    return reading


def sent(reading: Reading, waiting: Sequence[Tensor]) -> Reading:
    """Take all norms now and start their journey from the GPU; nothing waits for it."""
    norms = [stats.norms(waiting)] if waiting else []
    vector = joined(
        [part for part in (reading.known, *norms, *reading.peaks, *reading.losses) if part.numel()]
    )
    host = torch.empty_like(vector, device="cpu", pin_memory=True)
    reading.known = host.copy_(vector, non_blocking=True)
    reading.arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    reading.arrived.record()
    return reading


def finish(reading: Reading, norms: Doubles, *, finite: bool) -> None:
    """Put the numbers together, and examine what is not finite."""
    if reading.arrived is not None:
        reading.arrived.synchronize()
        length = reading.plan.taken + len(reading.plan.peaked)
        reading.numbers, losses = np.split(reading.known.double().numpy(), [length])
        reading.loss = float(losses.sum()) if losses.size else None
        reading.broken = not np.isfinite(reading.known.numpy()).all()
    elif reading.known is NOTHING and not reading.peaks:
        reading.numbers = norms
    else:
        peaks = [peak.numpy() for peak in reading.peaks]
        reading.numbers = np.concatenate((reading.known.numpy(), norms, *peaks), dtype=np.float64)
    if reading.slot is not None and not finite:
        _look_again(reading)
    reading.slot, reading.peaks, reading.losses = None, [], []


def _look_again(reading: Reading) -> None:
    """Examine the copies whose norms are not finite, and what is derived from them."""
    assert reading.numbers is not None
    assert reading.slot is not None
    plan, first, row = reading.plan, len(reading.known), reading.slot.row
    arena = reading.slot.arena
    for i in range(first, len(plan.places)):
        if not math.isfinite(reading.numbers[i]):
            _examine(reading, i, arena.part(i - first, row, row + 1)[0])
    for i, (_, left, right) in enumerate(plan.derived, len(plan.places)):
        factors = [arena.part(k - first, row, row + 1)[0] for k in (left, right) if k is not None]
        if not math.isfinite(math.prod(reading.numbers[k] for k in (left, right) if k is not None)):
            _examine(reading, i, torch.outer(*factors) if len(factors) == 2 else factors[0])


def _examine(reading: Reading, i: int, tensor: Tensor | None) -> None:
    """See whether element i of a reading is really not finite, or only its fast norm overflowed."""
    exact = reading.exact.get(i)
    if exact is None and tensor is not None:
        exact = reading.exact[i] = stats.examine(tensor)
    if exact is None or exact.nan_count or exact.inf_count:
        reading.broken = True
