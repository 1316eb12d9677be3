"""Measure what the probes collected, many steps at once.

A step of a small model takes a few hundred microseconds and leaves the caches full of weights, so that every
operation after it costs several times its usual price. Therefore a `Reading` only collects the small tensors
of a pass, and `Gauge.measure` takes the norms of many readings in one call. What would not be there later is
measured at once: gradients of parameters (clipping and the next zero_grad write into them) and whatever lives
on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanscope.recording import stats
from nanscope.recording.arena import Arena, Shapes, Slot
from nanscope.recording.places import Places
from nanscope.recording.probes import Kept, LinearCall, Measured, Probes
from nanscope.recording.units import Units

SMALL_LOGITS = 4_096  # elements; so many are looked at later, many steps at once
Doubles = NDArray[np.float64]
Placed = tuple[int, Tensor]
Pair = tuple[Tensor, Tensor]
Copy = tuple[int, int]
Called = tuple[int, LinearCall]


@dataclass(frozen=True, slots=True)
class Plan:
    """What the numbers of a reading mean, in this order.

    Attributes:
        places: one norm each.
        products: two norms each, whose product is the norm at this place.
        copies: places whose norm is that of another, by the other's index in `places`.
        peaked: one largest absolute value each.
    """

    places: tuple[int, ...] = ()
    products: tuple[int, ...] = ()
    copies: tuple[Copy, ...] = ()
    peaked: tuple[int, ...] = ()

    @property
    def order(self) -> tuple[int, ...]:
        """The places of all norms: first those taken, then products, then copies."""
        return (*self.places, *self.products, *(place for place, _ in self.copies))


@dataclass(slots=True, eq=False)
class Reading:
    """One backward pass: its tensors until it is measured, its numbers from then on.

    Attributes:
        known: norms that were taken at once; they come first in the plan.
        slot: copies of the tensors whose norms are still to be taken, the two factors of each product last.
        peaks: largest absolute values.
        losses: the tensors given to backward(), each a single number.
        logits: per pass the logits with the count of writes into them, or their `stats.logit_stats`.
        samples: rows of all passes.
        numbers: see `Plan`; None until measured. `loss` is the sum of the losses, None without any.
        exact: what was examined because its norm was not finite, by its index in the plan's `order`.
        dead: dead fraction by place, if a window was completed with this reading.
        broken: whether something in it is known to be non-finite.
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
    exact: dict[int, stats.Exact] = field(default_factory=dict)
    dead: Mapping[int, float] = field(default_factory=dict)
    broken: bool = False
    arrived: torch.cuda.Event | None = None

    @property
    def ready(self) -> bool:
        """Whether it can be measured without waiting for a device."""
        return self.arrived is None or bool(self.arrived.query())  # type: ignore[no-untyped-call]


class Gauge:
    """Measures the passes of one model."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._units = Units()
        self._plans: dict[Plan, Plan] = {}
        self._arenas: dict[tuple[Shapes, torch.dtype], Arena] = {}
        self._pending: list[Reading] = []

    @torch.no_grad()
    def weights(self) -> Reading:
        """Norms and largest absolute values of all parameters."""
        pairs = zip(self._places.weights, self._places.parameters, strict=True)
        held = [(place, stats.strided(tensor)) for place, tensor in pairs if tensor.numel()]
        places, tensors = tuple(place for place, _ in held), [tensor for _, tensor in held]
        known = stats.norms(tensors) if tensors else torch.empty(0)
        peaks = [stats.peaks(tensors)] if tensors else []
        reading = Reading(self._same(Plan(places, peaked=places)), known, None, peaks, [], [], 0)
        self._pending.append(reading)
        return _sent(reading, []) if known.is_cuda else _sealed(reading, tensors)

    @torch.no_grad()
    def collect(
        self, probes: Probes, roots: Iterable[Tensor], outer: AbstractSet[int], *, count: bool
    ) -> Reading:
        """Everything that the last backward pass reached.

        Args:
            roots: the tensors given to backward().
            outer: ids of the weights whose gradient is the outer product of its factors, see `factors`.
            count: whether to count predicted classes.
        """
        early = [m for m in probes.measured if m.of.reached]
        settled = probes.hasty is not None  # in the first step everything was measured in its hook
        kept = [k for k in probes.kept if k[3].reached and k[1]._version == k[2]] if settled else []
        calls = _sound(probes.linears, kept, outer) if outer else {}
        direct, products, twins = self._gradients(calls)
        arrived = {place: (i, tensor) for i, (place, tensor, _, _) in enumerate(kept)} if calls else {}
        factors = [t for _, call in products for t in (arrived[call.place][1], call.entering)]
        now = [m.norm.reshape(1) for m in early]
        if direct:
            now.append(stats.norms([stats.strided(gradient) for _, gradient in direct]))
        peaked, peaks = self._peaks(early, kept) if probes.closely else ((), [])
        places = (*(m.place for m in early), *(place for place, _ in direct), *(k[0] for k in kept))
        shift = len(places) - len(kept)
        copies = tuple((place, shift + arrived[call.place][0]) for place, call in twins)
        reading = Reading(
            plan=self._same(Plan(places, tuple(place for place, _ in products), copies, peaked)),
            known=_joined(now),
            slot=None,
            peaks=peaks,
            losses=[root.detach().reshape(1) for root in roots if root.numel() == 1],
            logits=_logits(probes, count=count),
            samples=sum(p.rows for p in probes.passes if p.reached),
            exact={i: m.exact for i, m in enumerate(early) if m.exact is not None},
        )
        self._units.count(reading.samples)
        for m in early:
            if m.maxima is not None:
                self._units.see(m.place, m.maxima)
        waiting = [stats.strided(tensor) for tensor in (*(k[1] for k in kept), *factors)]
        on_gpu = reading.known.is_cuda or any(tensor.is_cuda for tensor in (*waiting, *reading.losses))
        if waiting and not on_gpu:
            reading.slot = self._put(waiting)
        self._pending.append(reading)
        if on_gpu:
            return _sent(reading, waiting)
        return _sealed(reading, [*([None] * len(early)), *(gradient for _, gradient in direct)])

    @torch.no_grad()
    def measure(self) -> None:
        """Take the norms that collected readings still wait for."""
        pending, self._pending = self._pending, []
        for _, alike in groupby(pending, key=lambda r: (id(r.plan), r.slot and id(r.slot.arena))):
            group = list(alike)
            for reading, norms in zip(group, self._norms(group), strict=True):
                _finish(reading, norms)
        if pending:
            pending[-1].dead = self._units.harvest()
        for arena in self._arenas.values():
            arena.used = 0

    def _norms(self, readings: Sequence[Reading]) -> Doubles:
        """Norms of the tensors of readings in consecutive rows of one arena, shape (readings, tensors)."""
        slot = readings[0].slot
        if slot is None:
            return np.empty((len(readings), 0))
        arena, plan = slot.arena, readings[0].plan
        norms = np.empty((len(readings), len(arena.shapes)))
        places = plan.places[len(plan.places) + 2 * len(plan.products) - len(arena.shapes) :]
        for i, shape in enumerate(arena.shapes):
            part = arena.part(i, slot.row, slot.row + len(readings))
            norms[:, i] = torch.linalg.vector_norm(part, dim=1).numpy()
            if i < len(places) and places[i] in self._places.rectified:
                self._units.see(places[i], stats.unit_maxima(part.amax(0).view(shape)))
        return norms

    def _put(self, tensors: Sequence[Tensor]) -> Slot:
        shapes = tuple(tensor.shape for tensor in tensors)
        dtype = torch.float64 if any(t.dtype is torch.float64 for t in tensors) else torch.float32
        arena = self._arenas.get((shapes, dtype))
        if arena is None:
            arena = self._arenas[shapes, dtype] = Arena(shapes, dtype)
        if arena.full:
            self.measure()
        return arena.put(tensors)

    def _same(self, plan: Plan) -> Plan:
        """The same object for an equal plan: rows are looked up and grouped by identity."""
        return self._plans.setdefault(plan, plan)

    def _gradients(self, calls: Mapping[int, LinearCall]) -> tuple[list[Placed], list[Called], list[Called]]:
        """Gradients to be measured; weights' that are outer products; biases' that are their layer's own."""
        direct: list[Placed] = []
        products: list[Called] = []
        twins: list[Called] = []
        for place, parameter in zip(self._places.grads, self._places.parameters, strict=True):
            gradient, call = parameter.grad, calls.get(id(parameter))
            if gradient is None or not gradient.numel():
                continue
            if call is None:
                direct.append((place, gradient))
            else:
                (products if parameter is call.weight else twins).append((place, call))
        return direct, products, twins

    def _peaks(self, early: list[Measured], kept: list[Kept]) -> tuple[tuple[int, ...], list[Tensor]]:
        known = [m for m in early if m.peak is not None]
        late = [k for k in kept if k[0] in self._places.peaked]
        peaks = [m.peak.reshape(1) for m in known if m.peak is not None]
        if late:
            peaks.append(stats.peaks([stats.strided(k[1]) for k in late]))
        return (*(m.place for m in known), *(k[0] for k in late)), peaks


def _sound(calls: list[LinearCall], kept: list[Kept], outer: AbstractSet[int]) -> Mapping[int, LinearCall]:
    """Per parameter (by id) the only call that made its gradient, if what it multiplied is still there.

    A retained gradient is the one that went on: whatever hooks the output has, it saw what they made of it.
    """
    arrived = {place for place, _, _, _ in kept}
    sound = [call for call in calls if call.place in arrived and call.entering._version == call.version]
    found = {id(call.weight): call for call in sound if id(call.weight) in outer}
    return found | {id(call.bias): call for call in sound if id(call.bias) in outer}


def _joined(parts: list[Tensor]) -> Tensor:
    if not parts:
        return torch.empty(0)
    home = parts[0].device
    return torch.cat([part if part.device == home else part.to(home, non_blocking=True) for part in parts])


def _logits(probes: Probes, *, count: bool) -> list[tuple[Tensor, int]]:
    found = [p for p in probes.passes if p.reached and p.logits is not None and p.has_logits]
    return [
        (p.logits, p.version)
        if p.logits.numel() <= SMALL_LOGITS and not p.logits.is_cuda
        else (stats.logit_stats(p.logits[None], count=count)[0], 0)
        for p in found
        if p.logits is not None and p.logits.numel()
    ]


def _sealed(reading: Reading, tensors: Sequence[Tensor | None]) -> Reading:
    """Look at what is known now.

    Args:
        tensors: what each known norm is of, None where that was already examined.
    """
    if reading.losses:
        reading.loss = sum(loss.item() for loss in reading.losses)
        reading.broken = not math.isfinite(reading.loss)
    if len(tensors) and not math.isfinite(reading.known.sum().item()):
        for i in torch.nonzero(~torch.isfinite(reading.known)).flatten().tolist():
            _examine(reading, i, tensors[i])
    return reading


def _sent(reading: Reading, waiting: Sequence[Tensor]) -> Reading:
    """Take all norms now and start their journey from the GPU; nothing waits for it."""
    norms = [stats.norms(waiting)] if waiting else []
    vector = _joined(
        [part for part in (reading.known, *norms, *reading.peaks, *reading.losses) if part.numel()]
    )
    host = torch.empty_like(vector, device="cpu", pin_memory=True)
    reading.known = host.copy_(vector, non_blocking=True)
    reading.arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    reading.arrived.record()
    return reading


def _finish(reading: Reading, norms: Doubles) -> None:
    """Put the numbers together, and examine what is not finite."""
    if reading.arrived is not None:
        reading.arrived.synchronize()
        length = len(reading.plan.places) + 2 * len(reading.plan.products) + len(reading.plan.peaked)
        reading.numbers, losses = np.split(reading.known.double().numpy(), [length])
        reading.loss = float(losses.sum()) if losses.size else None
        reading.broken = not np.isfinite(reading.known.numpy()).all()
    else:
        known = [reading.known.numpy()] if len(reading.known) else []
        peaks = [peak.numpy() for peak in reading.peaks]
        reading.numbers = np.concatenate((*known, norms, *peaks), dtype=np.float64)
        if not np.isfinite(norms).all():
            _look_again(reading)
    reading.slot, reading.peaks, reading.losses = None, [], []


def _look_again(reading: Reading) -> None:
    """Examine the copies whose norms, or the products of whose norms, are not finite."""
    assert reading.numbers is not None
    assert reading.slot is not None
    plan, first, row = reading.plan, len(reading.known), reading.slot.row
    parts = [reading.slot.arena.part(i, row, row + 1)[0] for i in range(len(reading.slot.arena.shapes))]
    single = len(plan.places) - first
    for i, tensor in enumerate(parts[:single], first):
        if not math.isfinite(reading.numbers[i]):
            _examine(reading, i, tensor)
    pairs = zip(parts[single::2], parts[single + 1 :: 2], strict=True)
    for i, (left, right) in enumerate(pairs, len(plan.places)):
        _examine(reading, i, torch.outer(left, right))
    for i, (_, source) in enumerate(plan.copies, len(plan.places) + len(plan.products)):
        if source in reading.exact:
            reading.exact[i] = reading.exact[source]


def _examine(reading: Reading, i: int, tensor: Tensor | None) -> None:
    """See whether element i of a reading is really not finite, or only its fast norm overflowed."""
    exact = reading.exact.get(i)
    if exact is None and tensor is not None:
        exact = reading.exact[i] = stats.examine(tensor)
    if exact is None or exact.nan_count or exact.inf_count:
        reading.broken = True
