"""Measure what the probes collected: what would not be there later at once, the rest many steps at once.

A step of a small model takes a few hundred microseconds and leaves the caches full of weights, so that every
operation after it costs several times its usual price. Therefore the small tensors of a pass are put aside,
see `nanscope.recording.waiting`. Measured at once are gradients of parameters (clipping and the next
`zero_grad` write into them) and whatever lives on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from nanscope.recording import gram, stats
from nanscope.recording.factors import Factored, Factors
from nanscope.recording.passes import NOTHING, Measured, Pass
from nanscope.recording.places import Places
from nanscope.recording.plan import Plan, planned
from nanscope.recording.probes import Probes
from nanscope.recording.reading import Reading, joined, sealed, sent, weigh
from nanscope.recording.routine import Routine
from nanscope.recording.waiting import Waiting

WAITING_ELEMENTS = 16_384  # of a pass; with more of them a copy costs as much as a look
SMALL_LOGITS = 4_096  # elements; so many are looked at later, many steps at once


class Gauge:
    """Measures the passes of one model; `waiting` takes what is put aside."""

    def __init__(self, places: Places, waiting: Waiting) -> None:
        self._places, self._waiting = places, waiting
        self._factors = Factors()
        self._plans: dict[object, Plan] = {}

    def begin(self, roots: tuple[Tensor, ...], passes: Sequence[Pass]) -> None:
        """A backward pass is about to start from `roots`; need not be called if the pass is a usual one."""
        self._factors.begin(roots, passes)

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
        self._waiting.units.count(usual.rows)
        arena = routine.arena
        torch._C._set_grad_enabled(False)  # `torch.no_grad` takes six times as long with cold caches
        try:
            if direct or arena is None:
                self._taken(reading, [], direct, waiting)
                routine.arena = None if reading.slot is None else reading.slot.arena
            else:
                if arena.full:
                    self._waiting.measure()
                reading.slot, reading.suspect = arena.put(waiting)
                self._waiting.add(reading)
                weigh(reading)
            if reading.slot is not None and routine.logits is not None:
                reading.logits_at = len(usual.entering) + routine.logits
            elif routine.has_logits:
                reading.logits = _logits([usual.returned], count=self._waiting.counts)
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
        self._waiting.counts = count
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
        probes.counts_units = self._waiting.units.awake
        reading = Reading(
            plan=plan,
            known=NOTHING,
            slot=None,
            peaks=peaks,
            losses=_losses(roots),
            logits=_logits([one.logits for one in passes if one.has_logits], count=count),
            samples=sum([one.rows for one in passes]),
        )
        self._waiting.units.count(reading.samples)
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
        reading.known = joined(known) if known else NOTHING
        if waiting and small and not on_gpu:
            odd = any(tensor.is_complex() for tensor in waiting)
            strided = [stats.strided(tensor) for tensor in waiting] if odd else waiting
            reading.slot, reading.suspect = self._waiting.put(strided)
        self._waiting.add(reading)  # after _put: a full arena measures all that is pending
        if on_gpu:
            return sent(reading, [stats.strided(tensor) for tensor in waiting])
        if not small:
            self._see_units(reading.plan.places[len(early) + len(measured) :], waiting)
        return sealed(reading, lambda: self._sources(reading.plan, [None] * len(early) + now))

    def _sources(self, plan: Plan, taken: list[Tensor | None]) -> list[Tensor | None]:
        """What each norm of the plan's `order` is of, as far as it is known."""
        if len(taken) < plan.taken:
            return taken
        gradients = dict(zip(self._places.grads, self._places.parameters, strict=True))
        return taken[: len(plan.places)] + [gradients[place].grad for place, _, _ in plan.derived]

    def _see_units(self, places: tuple[int, ...], outputs: list[Tensor]) -> None:
        if not self._waiting.units.awake:
            return
        for place, output in zip(places, outputs, strict=False):  # the last ones may have no place
            if place in self._places.rectified:
                self._waiting.units.see(place, stats.unit_maxima(output))

    def _see_early(self, reading: Reading, early: list[Measured]) -> None:
        for i, m in enumerate(early):
            if m.exact is not None:
                reading.exact[i] = m.exact
            if m.maxima is not None:
                self._waiting.units.see(m.place, m.maxima)

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


def _logits(found: Iterable[Tensor | None], *, count: bool) -> list[tuple[Tensor, int]]:
    given = [logits.detach() for logits in found if logits is not None and logits.numel()]
    flat = [logits if logits.dim() == 2 else logits.flatten(0, -2) for logits in given]
    return [
        (logits, logits._version)
        if logits.numel() <= SMALL_LOGITS and not logits.is_cuda
        else (stats.logit_stats(logits[None], count=count)[0], 0)
        for logits in flat
    ]
