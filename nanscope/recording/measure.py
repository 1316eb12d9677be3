"""Measure what the probes collected in one backward pass, in a handful of batched calls.

All norms of a pass lie in one vector. On the CPU a look at its sum tells at once whether everything was
finite, while the tensors are still there to be examined. What the numbers mean is a `Plan`; steps of the
same plan are turned into rows together, later.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nanscope.recording import stats
from nanscope.recording.places import Places
from nanscope.recording.probes import Kept, LinearCall, Measured, Probes
from nanscope.recording.units import Units

SMALL_LOGITS = 4_096  # elements; so many are cheaper to copy now and to look at later, many steps at once


@dataclass(frozen=True, slots=True)
class Plan:
    """What the numbers of a vector mean, in this order.

    Attributes:
        places: one norm each.
        products: two norms each, whose product is the norm at this place.
        peaked: one largest absolute value each.
        dead: one dead fraction each.
        losses: how many tensors were given to backward().
    """

    places: tuple[int, ...] = ()
    products: tuple[int, ...] = ()
    peaked: tuple[int, ...] = ()
    dead: tuple[int, ...] = ()
    losses: int = 0

    @property
    def order(self) -> tuple[int, ...]:
        """The places of all norms, products last."""
        return self.places + self.products


@dataclass(slots=True)
class Reading:
    """The numbers of one backward pass.

    Attributes:
        vector: see `Plan`; on the host, or on its way there until `arrived`.
        total: sum of the vector, None while it is on its way.
        logits: per pass, a copy of the logits or their `stats.logit_stats`.
        samples: rows of all passes.
        broken: whether a norm or a loss was not finite, as far as that was known when it was measured.
        exact: what was examined because its norm was not finite, by its index in the plan's `order`.
    """

    plan: Plan
    vector: Tensor
    total: float | None = None
    logits: list[Tensor] = field(default_factory=list)
    samples: int = 0
    exact: dict[int, stats.Exact] = field(default_factory=dict)
    broken: bool = False
    arrived: torch.cuda.Event | None = None

    @property
    def ready(self) -> bool:
        """Whether the vector can be read without waiting."""
        return self.arrived is None or bool(self.arrived.query())  # type: ignore[no-untyped-call]


Placed = tuple[int, Tensor]
Pair = tuple[Tensor, Tensor]


class Gauge:
    """Measures passes of one model."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._units = Units()
        self._plans: dict[Plan, Plan] = {}

    def weights(self) -> Reading:
        """Norms and largest absolute values of all parameters."""
        pairs = zip(self._places.weights, self._places.parameters, strict=True)
        held = [(place, stats.strided(tensor)) for place, tensor in pairs if tensor.numel()]
        places, tensors = tuple(place for place, _ in held), [tensor for _, tensor in held]
        if not held:
            return Reading(self._known(Plan()), torch.empty(0), 0.0)
        vector = torch.cat((stats.norms(tensors), stats.norms(tensors, math.inf)))
        return _taken(Reading(self._known(Plan(places, peaked=places)), vector), tensors)

    @torch.no_grad()
    def backward(
        self, probes: Probes, roots: Iterable[Tensor], outer: AbstractSet[int], *, count: bool
    ) -> Reading:
        """Everything that the last backward pass reached.

        Args:
            roots: the tensors given to backward().
            outer: ids of the weights whose gradient is the outer product of its factors, see `factors`.
            count: whether to count predicted classes.
        """
        early = [m for m in probes.measured if m.of.reached]
        kept = (
            [] if probes.hasty is None else [k for k in probes.kept if k[3].reached and k[1]._version == k[2]]
        )
        pairs = _factors(probes.linears, kept, outer)
        direct, products = self._gradients(pairs)
        samples = sum(p.rows for p in probes.passes if p.reached)
        tensors = [*(k[1] for k in kept), *(gradient for _, gradient in direct)]
        factors = [factor for place, _ in products for factor in pairs[place]]
        losses = [root.reshape(1) for root in roots if root.numel() == 1]
        peaked, peaks = self._peaks(early, kept) if probes.closely else ((), [])
        dead = self._dead(early, kept, samples)
        parts = [m.norm.reshape(1) for m in early]
        if tensors or factors:
            parts.append(stats.norms([stats.strided(t) for t in (*tensors, *factors)]))
        parts += [*peaks, *dead.values(), *losses]
        places = (*(m.place for m in early), *(k[0] for k in kept), *(place for place, _ in direct))
        plan = Plan(places, tuple(place for place, _ in products), peaked, tuple(dead), len(losses))
        reading = Reading(self._known(plan), _joined(parts), None, _logits(probes, count=count), samples)
        reading.exact = {i: m.exact for i, m in enumerate(early) if m.exact is not None}
        return _taken(reading, [*([None] * len(early)), *tensors, *(gradient for _, gradient in products)])

    def _known(self, plan: Plan) -> Plan:
        """The same object for an equal plan: rows are looked up and grouped by identity."""
        return self._plans.setdefault(plan, plan)

    def _gradients(self, pairs: Mapping[int, Pair]) -> tuple[list[Placed], list[Placed]]:
        """Gradients of the parameters: those to be measured, and those that are the product of a pair."""
        direct: list[Placed] = []
        products: list[Placed] = []
        for place, parameter in zip(self._places.grads, self._places.parameters, strict=True):
            gradient = parameter.grad
            if gradient is not None and gradient.numel():
                (products if place in pairs else direct).append((place, gradient))
        return direct, products

    def _peaks(self, early: list[Measured], kept: list[Kept]) -> tuple[tuple[int, ...], list[Tensor]]:
        known = [m for m in early if m.peak is not None]
        late = [k for k in kept if k[0] in self._places.peaked]
        peaks = [m.peak.reshape(1) for m in known if m.peak is not None]
        if late:
            peaks.append(stats.norms([stats.strided(k[1]) for k in late], math.inf))
        return (*(m.place for m in known), *(k[0] for k in late)), peaks

    def _dead(self, early: list[Measured], kept: list[Kept], samples: int) -> Mapping[int, Tensor]:
        rectified = self._places.rectified
        if not rectified:
            return {}
        seen = [(m.place, m.maxima) for m in early if m.maxima is not None]
        seen += [(k[0], stats.unit_maxima(k[1])) for k in kept if k[0] in rectified]
        self._units.see([place for place, _ in seen], [maxima for _, maxima in seen], samples)
        return self._units.harvest()


def _factors(calls: list[LinearCall], kept: list[Kept], outer: AbstractSet[int]) -> Mapping[int, Pair]:
    """Per place of a weight's gradient: the gradient that arrived at its layer, and the layer's input."""
    if not outer:
        return {}
    arrived = {place: tensor for place, tensor, _, _ in kept}
    return {
        call.gradient: (arrived[call.place], call.entering)
        for call in calls
        if id(call.weight) in outer
        and call.place in arrived
        and call.entering._version == call.version
        and len(call.output._backward_hooks or ()) == 1  # a second hook may change the gradient after ours
    }


def _joined(parts: list[Tensor]) -> Tensor:
    home = parts[0].device
    return torch.cat([part if part.device == home else part.to(home, non_blocking=True) for part in parts])


def _logits(probes: Probes, *, count: bool) -> list[Tensor]:
    found = [p.logits for p in probes.passes if p.reached and p.has_logits]
    logits = [tensor for tensor in found if tensor is not None and tensor.numel()]
    return [
        t.clone()
        if t.numel() <= SMALL_LOGITS and not t.is_cuda
        else stats.logit_stats(t[None], count=count)[0]
        for t in logits
    ]


def _taken(reading: Reading, tensors: Sequence[Tensor | None]) -> Reading:
    """Bring the vector to the host; on the CPU look at once whether all is finite, and why not.

    Args:
        tensors: what each norm of the plan's `order` is of, None where that was already examined.
    """
    if reading.vector.is_cuda:
        host = torch.empty_like(reading.vector, device="cpu", pin_memory=True)
        reading.vector = host.copy_(reading.vector, non_blocking=True)
        reading.arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        reading.arrived.record()
        return reading
    reading.total = float(reading.vector.sum(dtype=torch.float64))
    if not math.isfinite(reading.total):
        _examine(reading, tensors)
    return reading


def _examine(reading: Reading, tensors: Sequence[Tensor | None]) -> None:
    single = len(reading.plan.places)
    pairs = reading.vector[single : single + 2 * len(reading.plan.products)].double()
    l2 = torch.cat((reading.vector[:single].double(), pairs[0::2] * pairs[1::2]))
    for i in torch.nonzero(~torch.isfinite(l2)).flatten().tolist():
        tensor = tensors[i]
        if tensor is not None:
            reading.exact[i] = stats.examine(tensor)
    losses = reading.vector[len(reading.vector) - reading.plan.losses :]
    norms = [exact.l2 for exact in reading.exact.values()]
    reading.broken = not (all(map(math.isfinite, norms)) and bool(torch.isfinite(losses).all()))
