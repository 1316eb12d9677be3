"""Measure what the probes collected, many steps at once.

A step of a small model takes a few hundred microseconds and leaves the caches full of weights, so that every
operation after it costs several times its usual price. Therefore a `Reading` only collects the small tensors
of a pass, and `Gauge.measure` takes the norms of many readings in one call. What would not be there later is
measured at once: gradients of parameters (clipping and the next zero_grad write into them) and whatever lives
on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanscope.recording import gram, stats
from nanscope.recording.arena import TINY, Arena, Shapes, Slot
from nanscope.recording.factors import Factored, Factors
from nanscope.recording.passes import NOTHING, Measured, Pass
from nanscope.recording.places import Places
from nanscope.recording.plan import Plan, planned
from nanscope.recording.probes import Probes
from nanscope.recording.routine import Routine
from nanscope.recording.units import Units

WAITING_ELEMENTS = 16_384  # of a pass; with more of them a copy costs as much as a look
COPIED_BYTES = 1 << 24  # of parameters in an update
SMALL_LOGITS = 4_096  # elements; so many are looked at later, many steps at once
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


class Gauge:
    """Measures the passes of one model."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._factors = Factors()
        self._units = Units()
        self._plans: dict[object, Plan] = {}
        self._arenas: dict[tuple[Shapes, bool], Arena] = {}
        self._pending: list[Reading] = []
        self._copies: dict[int, Tensor] = {}
        self._first_copied = 0
        self._count = False

    def begin(self, roots: tuple[Tensor, ...], passes: Sequence[Pass]) -> None:
        """A backward pass is about to start from `roots`; need not be called if the pass is a usual one."""
        self._factors.begin(roots, passes)

    @torch.no_grad()
    def remember(self) -> None:
        """The parameters are about to be updated: keep some of them as they are, to see how far they move.

        Which ones changes from look to look, if they are too many for a copy that nobody notices.
        """
        self._copies, room = {}, COPIED_BYTES
        for i in range(len(self._places.parameters)):
            number = (self._first_copied + i) % len(self._places.parameters)
            parameter = self._places.parameters[number]
            room -= parameter.nbytes
            if self._copies and room < 0:
                self._first_copied = number
                return
            if parameter.numel():
                self._copies[number] = stats.strided(parameter).clone()

    @torch.no_grad()
    def weights(self) -> Reading:
        """Norms and largest absolute values of all parameters, norms of the updates that were remembered."""
        copies, self._copies = self._copies, {}
        for i, copy in copies.items():
            copy.sub_(stats.strided(self._places.parameters[i]))
        pairs = zip(self._places.weights, self._places.parameters, strict=True)
        held = [(place, stats.strided(tensor)) for place, tensor in pairs if tensor.numel()]
        peaked, tensors = tuple([place for place, _ in held]), [tensor for _, tensor in held]
        peaks = [stats.peaks(tensors)] if tensors else []
        tensors += copies.values()
        known = stats.norms(tensors) if tensors else torch.empty(0)
        places = (*peaked, *(self._places.updates[i] for i in copies))
        plan = self._plans.setdefault(places, Plan(places, peaked=peaked))
        reading = Reading(plan, known, None, peaks, [], [], 0)
        self._pending.append(reading)
        return _sent(reading, []) if known.is_cuda else _sealed(reading, lambda: tensors)

    def follow(self, probes: Probes, roots: Sequence[Tensor]) -> Reading | None:
        """Everything that the last backward pass reached, if it went as the one before; else None."""
        routine, usual = probes.routine, probes.usual
        if routine is None or probes.odd:
            return None
        tensors = routine.follow(usual)
        if tensors is None:
            return None
        direct, waiting = tensors
        reading = Reading(routine.plan, NOTHING, None, [], _losses(roots), [], usual.rows)
        self._units.count(usual.rows)
        arena = routine.arena
        torch._C._set_grad_enabled(False)  # `torch.no_grad` takes six times as long with cold caches
        try:
            if direct or arena is None:
                self._taken(reading, [], direct, waiting)
                routine.arena = None if reading.slot is None else reading.slot.arena
            else:
                if arena.full:
                    self.measure()
                reading.slot, reading.suspect = arena.put(waiting)
                self._pending.append(reading)
                _weigh(reading)
            if reading.slot is not None and routine.logits is not None:
                reading.logits_at = len(usual.entering) + routine.logits
            elif routine.has_logits:
                reading.logits = _logits([usual.returned], count=self._count)
        finally:
            torch._C._set_grad_enabled(True)
        return reading

    @torch.no_grad()
    def collect(self, probes: Probes, roots: Sequence[Tensor], *, count: bool) -> Reading:
        """The same for a pass of any kind.

        Args:
            roots: the tensors given to backward().
            count: whether to count predicted classes.
        """
        self._count = count
        gradients = [parameter.grad for parameter in self._places.parameters]
        passes = [one for one in probes.passes if one.reached]
        early = [m for one in passes for m in one.measured]
        numbers, tensors = _still_there(passes, self._places.entry)
        peaked, peaks = self._peaks(early, numbers, tensors) if probes.closely else ((), [])
        layouts = tuple([None if g is None or not g.numel() else g.layout for g in gradients])
        factored = tuple(self._factors.calls(passes, _firsts(tensors)))
        course = (tuple([m.place for m in early]), tuple(numbers), factored, layouts, peaked)
        plan = self._plans.get(course)
        if plan is None:
            plan = self._plans[course] = planned(self._places, course)
        alone = len(probes.passes) == 1 and not (early or peaked or probes.overwritten)
        probes.routine = self._routine(passes[0], factored, roots) if alone else None
        probes.learn()
        probes.counts_units = self._units.awake
        reading = Reading(
            plan=plan,
            known=NOTHING,
            slot=None,
            peaks=peaks,
            losses=_losses(roots),
            logits=_logits([one.logits for one in passes if one.has_logits], count=count),
            samples=sum([one.rows for one in passes]),
        )
        self._units.count(reading.samples)
        self._see_early(reading, early)
        linears = [call for one in passes for call in one.linears]
        now = [g for g in map(gradients.__getitem__, plan.direct) if g is not None]
        waiting = tensors + [g for g in map(gradients.__getitem__, plan.small) if g is not None]
        waiting += [linears[i][2] for i in plan.entering]
        return self._taken(reading, [m.norm for m in early], now, waiting)

    def _routine(self, one: Pass, factored: Sequence[Factored], roots: Sequence[Tensor]) -> Routine | None:
        """What to expect of the next pass; None if this one cannot be told in brief."""
        calls = one.calls
        once = len({call[0] for call in calls}) == len(calls)
        brief = once and not one.unfolded and all(len(call[4]) <= 1 for call in calls)
        if not (brief and calls) or one.spent or calls[0][1].is_cuda or self._is_complex(one):
            return None
        return Routine(one, self._places, self._factors, factored, roots)

    def _is_complex(self, one: Pass) -> bool:
        tensors = [*self._places.parameters, *one.entering, *(call[1] for call in one.calls)]
        return any(tensor.is_complex() for tensor in tensors)

    def _taken(
        self, reading: Reading, early: list[Tensor], measured: list[Tensor], waiting: list[Tensor]
    ) -> Reading:
        """Take the norms that cannot wait; put the rest aside, or on their way from the GPU.

        Args:
            early: norms that the hooks took; `measured`, `waiting`: tensors, in the order of the plan.
        """
        on_gpu = (measured or waiting or early)[0].is_cuda
        small = sum([tensor.numel() for tensor in waiting]) <= WAITING_ELEMENTS
        now = measured if small or on_gpu else measured + waiting
        known = [norm.reshape(1) for norm in early]
        if now:
            known.append(_norms(now, {} if on_gpu else _products(reading.plan, waiting)))
        reading.known = _joined(known) if known else NOTHING
        if waiting and small and not on_gpu:
            odd = any(tensor.is_complex() for tensor in waiting)
            strided = [stats.strided(tensor) for tensor in waiting] if odd else waiting
            reading.slot, reading.suspect = self._put(strided)
        self._pending.append(reading)  # after _put: a full arena measures all that is pending
        if on_gpu:
            return _sent(reading, [stats.strided(tensor) for tensor in waiting])
        if not small:
            self._see_units(reading.plan.places[len(early) + len(measured) :], waiting)
        return _sealed(reading, lambda: self._sources(reading.plan, [None] * len(early) + now))

    def _sources(self, plan: Plan, taken: list[Tensor | None]) -> list[Tensor | None]:
        """What each norm of the plan's `order` is of, as far as it is known."""
        if len(taken) < plan.taken:
            return taken
        gradients = dict(zip(self._places.grads, self._places.parameters, strict=True))
        return taken[: len(plan.places)] + [gradients[place].grad for place, _, _ in plan.derived]

    def _see_units(self, places: tuple[int, ...], outputs: list[Tensor]) -> None:
        if not self._units.awake:
            return
        for place, output in zip(places, outputs, strict=False):  # the last ones may have no place
            if place in self._places.rectified:
                self._units.see(place, stats.unit_maxima(output))

    def _see_early(self, reading: Reading, early: list[Measured]) -> None:
        for i, m in enumerate(early):
            if m.exact is not None:
                reading.exact[i] = m.exact
            if m.maxima is not None:
                self._units.see(m.place, m.maxima)

    @torch.no_grad()
    def measure(self, *, wait: bool = False) -> None:
        """Take the norms that collected readings still wait for; with `wait`, also those still on a GPU."""
        pending = [reading for reading in self._pending if wait or reading.ready]
        taken = set(map(id, pending))  # asked once: a copy may arrive between two questions
        begun = [reading for reading in pending if reading.numbers is None]  # an interrupt may have left some
        for _, alike in groupby(begun, key=lambda r: (id(r.plan), r.slot and id(r.slot.arena), r.logits_at)):
            group = list(alike)
            norms = self._norms(group)
            finite = bool(np.isfinite(norms).all())
            for reading, row in zip(group, norms, strict=True):
                _finish(reading, row, finite=finite)
        if pending:
            pending[-1].dead = self._units.harvest()
        self._pending = [reading for reading in self._pending if id(reading) not in taken]
        for arena in self._arenas.values():
            arena.used = 0

    def _norms(self, readings: Sequence[Reading]) -> Doubles:
        """Norms of the tensors of readings in consecutive rows of one arena, shape (readings, tensors)."""
        slot = readings[0].slot
        if slot is None:
            return np.empty((len(readings), 0))
        arena, plan, last = slot.arena, readings[0].plan, slot.row + len(readings)
        places = plan.places[plan.taken - len(arena.shapes) :]
        if self._units.awake:
            for i, place in enumerate(places):
                if place in self._places.rectified:
                    largest = arena.part(i, slot.row, last).amax(0).view(arena.shapes[i])
                    self._units.see(place, stats.unit_maxima(largest))
        at = readings[0].logits_at
        if at is not None:
            logits = arena.part(at, slot.row, last)
            self._predict(readings, logits.view(len(readings), -1, arena.shapes[at][-1]))
        return arena.norms(slot.row, last)

    def _predict(self, readings: Sequence[Reading], logits: Tensor) -> None:
        predicted = stats.logit_stats(logits, count=self._count).double().numpy()
        for reading, row in zip(readings, predicted, strict=True):
            reading.predicted = row

    def _put(self, tensors: list[Tensor]) -> tuple[Slot, bool]:
        shapes = tuple([tensor.shape for tensor in tensors])
        wide = tensors[-1].dtype is torch.float64 or tensors[0].dtype is torch.float64
        arena = self._arenas.get((shapes, wide))
        if arena is None:
            arena = self._arenas[shapes, wide] = Arena(shapes, torch.float64 if wide else torch.float32)
        if arena.full:
            self.measure()
        return arena.put(tensors)

    def _peaks(
        self, early: list[Measured], numbers: list[int], tensors: list[Tensor]
    ) -> tuple[tuple[int, ...], list[Tensor]]:
        known = [m for m in early if m.peak is not None]
        late = [i for i, place in enumerate(numbers) if place in self._places.peaked]
        peaks = [m.peak.reshape(1) for m in known if m.peak is not None]
        if late:
            peaks.append(stats.peaks([stats.strided(tensors[i]) for i in late]))
        return (*(m.place for m in known), *(numbers[i] for i in late)), peaks


def _still_there(passes: Sequence[Pass], entry: int) -> tuple[list[int], list[Tensor]]:
    """Places and tensors that the pass reached and nobody has written into since."""
    fresh = [one for one in passes if not one.spent]
    kept = [
        (entry, tensor)
        for one in fresh
        for tensor, version in zip(one.entering, one.written, strict=True)
        if tensor._version == version
    ]
    kept += [(out, t) for one in fresh for out, t, version, _, _ in one.calls if t._version == version]
    kept += [(back, gradient) for one in passes for *_, back, arrived in one.calls for gradient in arrived]
    return [place for place, _ in kept], [tensor for _, tensor in kept]


def _firsts(tensors: Sequence[Tensor]) -> dict[int, int]:
    """Where each tensor comes first, by id: one and the same may come in and go out."""
    return {id(tensor): i for i, tensor in reversed(list(enumerate(tensors)))}


def _losses(roots: Iterable[Tensor]) -> list[Tensor]:
    return [root for root in roots if root.numel() == 1]


def _products(plan: Plan, waiting: Sequence[Tensor]) -> dict[int, float]:
    """Norms of gradients that are had from inner products, by their number among those measured at once."""
    found = {n: gram.squared_norm(waiting[d], waiting[x]) for n, d, x in plan.products}
    return {n: math.sqrt(square) for n, square in found.items() if square is not None}


def _norms(tensors: Sequence[Tensor], known: Mapping[int, float]) -> Tensor:
    """Norms of tensors, of which some are known by number."""
    measured = stats.norms([stats.strided(t) for n, t in enumerate(tensors) if n not in known])
    if not known:
        return measured
    rest = iter(measured.tolist())
    together = [known[n] if n in known else next(rest) for n in range(len(tensors))]
    return torch.tensor(together, dtype=torch.float64)


def _joined(parts: list[Tensor]) -> Tensor:
    if len(parts) == 1:
        return parts[0]
    home = parts[0].device
    return torch.cat([part if part.device == home else part.to(home, non_blocking=True) for part in parts])


def _logits(found: Iterable[Tensor | None], *, count: bool) -> list[tuple[Tensor, int]]:
    given = [logits.detach() for logits in found if logits is not None and logits.numel()]
    flat = [logits if logits.dim() == 2 else logits.flatten(0, -2) for logits in given]
    return [
        (logits, logits._version)
        if logits.numel() <= SMALL_LOGITS and not logits.is_cuda
        else (stats.logit_stats(logits[None], count=count)[0], 0)
        for logits in flat
    ]


def _weigh(reading: Reading) -> None:
    """Read the losses, and let go of them: each holds what is left of its graph."""
    if reading.losses:
        reading.loss = 0.0
        for loss in reading.losses:
            reading.loss += loss.item()
        reading.broken = not math.isfinite(reading.loss)
        reading.losses = []


def _sealed(reading: Reading, sources: Callable[[], Sequence[Tensor | None]]) -> Reading:
    """Look at what is known now; in Python, for each of torch's functions brings code of its own.

    Args:
        sources: gives what each norm of the plan's `order` is of, as far as they are known; None where that
            was already examined.
    """
    _weigh(reading)
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


def _finish(reading: Reading, norms: Doubles, *, finite: bool) -> None:
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
