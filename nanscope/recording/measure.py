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
        waiting: tensors whose norms are still to be taken, the two factors of each product last; `versions`
            counts the writes into each when it was seen.
        peaks: largest absolute values.
        losses: the tensors given to backward(), each a single number.
        logits: per pass the logits with the count of writes into them, or their `stats.logit_stats`.
        samples: rows of all passes.
        numbers: see `Plan`; None until measured. `loss` is the sum of the losses, None without any.
        exact: what was examined because its norm was not finite, by its index in the plan's `order`.
        dead: dead fraction by place, if a window was completed with this reading.
        lost: places whose tensors were overwritten before they could be measured.
        broken: whether something in it is known to be non-finite.
        arrived: on a GPU everything is measured at once and travels to the host as `known`, until this event.
    """

    plan: Plan
    known: Tensor
    waiting: list[Tensor]
    versions: list[int]
    peaks: list[Tensor]
    losses: list[Tensor]
    logits: list[tuple[Tensor, int]]
    samples: int
    numbers: Doubles | None = None
    loss: float | None = None
    exact: dict[int, stats.Exact] = field(default_factory=dict)
    dead: Mapping[int, float] = field(default_factory=dict)
    lost: list[int] = field(default_factory=list)
    broken: bool = False
    arrived: torch.cuda.Event | None = None

    @property
    def ready(self) -> bool:
        """Whether it can be measured without waiting for a device."""
        return self.arrived is None or bool(self.arrived.query())  # type: ignore[no-untyped-call]

    @property
    def elements(self) -> int:
        """How much it keeps alive."""
        return sum(tensor.numel() for tensor in self.waiting)


class Gauge:
    """Measures the passes of one model."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._units = Units()
        self._plans: dict[Plan, Plan] = {}

    def weights(self) -> Reading:
        """Norms and largest absolute values of all parameters."""
        pairs = zip(self._places.weights, self._places.parameters, strict=True)
        held = [(place, stats.strided(tensor)) for place, tensor in pairs if tensor.numel()]
        places, tensors = tuple(place for place, _ in held), [tensor for _, tensor in held]
        known = stats.norms(tensors) if tensors else torch.empty(0)
        peaks = [stats.norms(tensors, math.inf)] if tensors else []
        reading = Reading(self._same(Plan(places, peaked=places)), known, [], [], peaks, [], [], 0)
        return _sealed(reading, tensors)

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
            waiting=[*(k[1] for k in kept), *factors],
            versions=[*(k[2] for k in kept), *(factor._version for factor in factors)],
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
        return _sealed(reading, [*([None] * len(early)), *(gradient for _, gradient in direct)])

    @torch.no_grad()
    def measure(self, readings: Sequence[Reading]) -> None:
        """Take the norms that these readings still wait for, and let go of their tensors."""
        fresh = [reading for reading in readings if reading.numbers is None]
        for _, alike in groupby(fresh, key=lambda reading: (id(reading.plan), reading.samples)):
            group = list(alike)
            for reading, norms in zip(group, self._norms(group), strict=True):
                _finish(reading, norms)
        if fresh:
            fresh[-1].dead = self._units.harvest()

    def _norms(self, readings: Sequence[Reading]) -> Doubles:
        """Norms of the waiting tensors of readings of one plan, shape (readings, tensors)."""
        plan, waiting = readings[0].plan, len(readings[0].waiting)
        norms = np.empty((len(readings), waiting))
        first = len(plan.places) - (waiting - 2 * len(plan.products))
        for i in range(waiting):
            tensors = [reading.waiting[i] for reading in readings]
            if len({tensor.shape for tensor in tensors}) == 1:
                block = stats.strided(torch.stack(tensors))
                norms[:, i] = torch.linalg.vector_norm(block.flatten(1), dim=1, dtype=_wide(block)).numpy()
                self._see_units(plan.places, first + i, block)
            else:
                norms[:, i] = stats.norms([stats.strided(tensor) for tensor in tensors]).numpy()
                for tensor in tensors:
                    self._see_units(plan.places, first + i, tensor[None])
        return norms

    def _see_units(self, places: tuple[int, ...], i: int, block: Tensor) -> None:
        """Take in outputs of a rectified place, shape (steps, *output)."""
        if i < len(places) and places[i] in self._places.rectified:
            self._units.see(places[i], stats.unit_maxima(block.amax(0)))

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
            peaks.append(stats.norms([stats.strided(k[1]) for k in late], math.inf))
        return (*(m.place for m in known), *(k[0] for k in late)), peaks


def _sound(calls: list[LinearCall], kept: list[Kept], outer: AbstractSet[int]) -> Mapping[int, LinearCall]:
    """Per parameter (by id) the only call that made its gradient, if what it multiplied is still there."""
    arrived = {place for place, _, _, _ in kept}
    sound = [
        call
        for call in calls
        if call.place in arrived
        and call.entering._version == call.version
        and len(call.output._backward_hooks or ()) == 1  # a second hook may change the gradient after ours
    ]
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
    """Look at what is known now; send it on its way if it is on a GPU.

    Args:
        tensors: what each known norm is of, None where that was already examined.
    """
    if reading.known.is_cuda or any(loss.is_cuda for loss in reading.losses):
        return _sent(reading)
    if reading.losses:
        reading.loss = sum(loss.item() for loss in reading.losses)
        reading.broken = not math.isfinite(reading.loss)
    if len(tensors) and not math.isfinite(reading.known.sum().item()):
        for i in torch.nonzero(~torch.isfinite(reading.known)).flatten().tolist():
            _examine(reading, i, tensors[i])
    return reading


def _sent(reading: Reading) -> Reading:
    """Take all norms now and start their journey from the GPU; nothing waits for it."""
    norms = [stats.norms([stats.strided(tensor) for tensor in reading.waiting])] if reading.waiting else []
    vector = _joined(
        [part for part in (reading.known, *norms, *reading.peaks, *reading.losses) if part.numel()]
    )
    host = torch.empty_like(vector, device="cpu", pin_memory=True)
    reading.known = host.copy_(vector, non_blocking=True)
    reading.arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    reading.arrived.record()
    reading.waiting = []
    return reading


def _finish(reading: Reading, norms: Doubles) -> None:
    """Put the numbers together, examine what is not finite, let go of the tensors."""
    if reading.arrived is not None:
        reading.arrived.synchronize()
        reading.numbers, losses = np.split(reading.known.double().numpy(), [_length(reading.plan)])
        reading.loss = float(losses.sum()) if losses.size else None
        reading.broken = not np.isfinite(reading.known.numpy()).all()
    else:
        parts = [part.numpy() for part in (reading.known, *reading.peaks) if part.numel()]
        known = len(reading.known)
        reading.numbers = (
            np.concatenate((*parts[: known > 0], norms, *parts[known > 0 :])) if parts else norms
        )
        if [tensor._version for tensor in reading.waiting] != reading.versions or not np.isfinite(
            norms
        ).all():
            _look_again(reading)
    reading.waiting, reading.peaks, reading.losses = [], [], []


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype is torch.float64 else torch.float32


def _length(plan: Plan) -> int:
    return len(plan.places) + 2 * len(plan.products) + len(plan.peaked)


def _look_again(reading: Reading) -> None:
    """What the late norms tell: tensors overwritten meanwhile, and norms that are not finite."""
    assert reading.numbers is not None
    plan, first = reading.plan, len(reading.known)
    single = len(plan.places) - first
    for i, (tensor, version) in enumerate(
        zip(reading.waiting[:single], reading.versions, strict=False), first
    ):
        if tensor._version != version:
            reading.lost.append(plan.places[i])
        elif not math.isfinite(reading.numbers[i]):
            _examine(reading, i, tensor)
    for k, place in enumerate(plan.products):
        left, right = reading.waiting[single + 2 * k : single + 2 * k + 2]
        if [left._version, right._version] != reading.versions[single + 2 * k : single + 2 * k + 2]:
            reading.lost.append(place)
        elif not math.isfinite(math.prod(reading.numbers[len(plan.places) + 2 * k :][:2])):
            _examine(reading, len(plan.places) + k, torch.outer(left.flatten(), right.flatten()))
    for k, (place, source) in enumerate(plan.copies, len(plan.places) + len(plan.products)):
        if source in reading.exact:
            reading.exact[k] = reading.exact[source]
        if plan.places[source] in reading.lost:
            reading.lost.append(place)


def _examine(reading: Reading, i: int, tensor: Tensor | None) -> None:
    """See whether element i of a reading is really not finite, or only its fast norm overflowed."""
    exact = reading.exact.get(i)
    if exact is None and tensor is not None:
        exact = reading.exact[i] = stats.examine(tensor)
    if exact is None or exact.nan_count or exact.inf_count:
        reading.broken = True
