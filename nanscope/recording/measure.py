"""Measure what the probes collected in one backward pass, in a handful of batched calls.

`gather` queues the kernels and reads nothing; all numbers of a measurement lie in one vector on the device.
`read` takes that vector on the host. On the CPU it follows at once, so that a non-finite norm can be looked
at while its tensor is still there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanscope.recording import stats
from nanscope.recording.places import Places
from nanscope.recording.probes import LinearCall, Probes, Sighting
from nanscope.recording.units import Units

Doubles = NDArray[np.float64]


@dataclass(slots=True)
class Norm:
    """One norm to be had: already known (`value`), or of `tensor`, or the product of the norms of `factors`.

    `tensor` is what to examine if the norm is not finite, `exact` what the hook already found.
    """

    place: int
    tensor: Tensor | None
    value: Tensor | None = None
    factors: tuple[Tensor, Tensor] | None = None
    exact: stats.Exact | None = None

    @classmethod
    def of(cls, seen: Sighting) -> Norm:
        """The norm of what a probe saw."""
        return cls(seen.place, seen.tensor, seen.norm, exact=seen.exact)


@dataclass(slots=True)
class Batch:
    """A queued measurement: `vector` holds norms, peaks, dead fractions, losses and logits, in this order."""

    vector: Tensor
    known: list[Norm] = field(default_factory=list)
    late: list[Norm] = field(default_factory=list)
    products: list[Norm] = field(default_factory=list)
    peaked: tuple[int, ...] = ()
    dead: tuple[int, ...] = ()
    losses: int = 0
    rows: tuple[int, ...] = ()
    samples: int = 0

    @property
    def norms(self) -> list[Norm]:
        """All norms, in the order of a measurement's `places`."""
        return [*self.known, *self.late, *self.products]

    def release(self) -> None:
        """Let go of the tensors: the vector will be read when they have long been overwritten."""
        for norm in self.norms:
            norm.tensor = norm.value = norm.factors = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """One backward pass in numbers, on the host.

    Attributes:
        places: the place of each norm, in the order of execution.
        l2, nan_count, inf_count: shape (places,); a count is NaN where it could not be taken.
        peaked, abs_max: places of the largest absolute values, and these; shape (peaked,).
        dead: dead fraction by place.
        loss: sum of the tensors given to backward(), None when none of them was a single number.
        logits: shape (passes, 3) or (passes, 3 + classes), see `stats.logit_stats`; `rows` of each.
        samples: rows of all passes.
        finite: whether every norm, and the loss, was finite.
    """

    places: tuple[int, ...]
    l2: Doubles
    nan_count: Doubles
    inf_count: Doubles
    peaked: tuple[int, ...]
    abs_max: Doubles
    dead: Mapping[int, float]
    loss: float | None
    logits: Doubles
    rows: tuple[int, ...]
    samples: int
    finite: bool


def gather(
    probes: Probes,
    places: Places,
    units: Units,
    roots: Iterable[Tensor],
    outer: AbstractSet[int],
    *,
    classes: bool,
) -> Batch:
    """Queue the measurement of everything that the last backward pass reached.

    Args:
        roots: the tensors given to backward().
        outer: ids of the weights whose gradient is the outer product of its factors, see `nanscope.factors`.
        classes: whether to count predicted classes.
    """
    seen = [s for s in probes.seen if s.of.reached and s.usable]
    known = [Norm.of(s) for s in seen if s.norm is not None]
    late = [Norm.of(s) for s in seen if s.norm is None]
    factored = {id(call.weight): call for call in probes.linears if id(call.weight) in outer and call.sound}
    gradients = list(_gradients(places, factored))
    late += [norm for norm in gradients if norm.factors is None]
    products = [norm for norm in gradients if norm.factors is not None]
    peaks = [s for s in seen if s.place in places.peaked] if probes.closely else []
    peaks.sort(key=lambda s: s.peak is None)  # as `_peaks` yields them
    passes = [p for p in probes.passes if p.reached and p.has_logits]
    samples = sum(p.rows for p in probes.passes if p.reached)
    units.see(seen, samples)
    dead = units.harvest()
    losses = [root.detach().reshape(1) for root in roots if root.numel() == 1]
    parts = [*_norms(known, late, products), *_peaks(peaks), *dead.values(), *losses]
    parts += [stats.logit_stats(p.logits, classes) for p in passes if p.logits is not None]
    return Batch(
        vector=_joined(parts),
        known=known,
        late=late,
        products=products,
        peaked=tuple(s.place for s in peaks),
        dead=tuple(dead),
        losses=len(losses),
        rows=tuple(0 if p.logits is None else p.logits.shape[0] for p in passes),
        samples=samples,
    )


def look_at_weights(places: Places) -> Batch:
    """Queue norms and largest absolute values of all parameters."""
    held = [(place, p) for place, p in zip(places.weights, places.parameters, strict=True) if p.numel()]
    tensors = [stats.strided(parameter) for _, parameter in held]
    if not held:
        return Batch(torch.empty(0))
    vector = torch.cat((stats.norms(tensors), stats.norms(tensors, float("inf"))))
    return Batch(vector, late=[Norm(place, p) for place, p in held], peaked=tuple(place for place, _ in held))


def _gradients(places: Places, factored: dict[int, LinearCall]) -> Iterator[Norm]:
    for place, parameter in zip(places.grads, places.parameters, strict=True):
        gradient = parameter.grad
        if gradient is None or not gradient.numel():
            continue
        call = factored.get(id(parameter))
        if call is None or call.arrived is None:
            yield Norm(place, gradient)
        else:
            yield Norm(place, gradient, factors=(call.arrived, call.entering))


def _norms(known: list[Norm], late: list[Norm], products: list[Norm]) -> Iterator[Tensor]:
    if known:
        yield torch.stack([norm.value for norm in known if norm.value is not None])
    tensors = [norm.tensor for norm in late if norm.tensor is not None]
    tensors += [factor for norm in products if norm.factors for factor in norm.factors]
    if tensors:
        yield stats.norms([stats.strided(tensor) for tensor in tensors])


def _peaks(seen: list[Sighting]) -> Iterator[Tensor]:
    known = [s.peak for s in seen if s.peak is not None]
    if known:
        yield torch.stack(known)
    late = [stats.strided(s.tensor) for s in seen if s.peak is None and s.tensor is not None]
    if late:
        yield stats.norms(late, float("inf"))


def _joined(parts: list[Tensor]) -> Tensor:
    if not parts:
        return torch.empty(0)
    home = parts[0].device
    return torch.cat([part.to(home, non_blocking=True) for part in parts])


def read(batch: Batch, vector: Doubles) -> Measurement:
    """Make sense of the vector of a batch.

    Args:
        vector: the batch's vector on the host.
    """
    singles = len(batch.known) + len(batch.late)
    pairs = 2 * len(batch.products)
    sizes = [singles, pairs, len(batch.peaked), len(batch.dead), batch.losses]
    single, pair, peak, dead, loss, logits = np.split(vector, np.cumsum(sizes))
    norms = batch.norms
    l2 = np.concatenate((single, pair[0::2] * pair[1::2]))
    counts = np.zeros((2, len(norms)))
    broken = np.flatnonzero(~np.isfinite(l2))
    for i in map(int, broken):
        _examine(norms[i], i, l2, counts)
    return Measurement(
        places=tuple(norm.place for norm in norms),
        l2=l2,
        nan_count=counts[0],
        inf_count=counts[1],
        peaked=batch.peaked,
        abs_max=peak,
        dead=dict(zip(batch.dead, dead.tolist(), strict=True)),
        loss=float(loss.sum()) if batch.losses else None,
        logits=logits.reshape(len(batch.rows), logits.size // max(len(batch.rows), 1)),
        rows=batch.rows,
        samples=batch.samples,
        finite=bool(np.isfinite(l2[broken]).all() and np.isfinite(loss).all()),
    )


def _examine(norm: Norm, i: int, l2: Doubles, counts: Doubles) -> None:
    exact = norm.exact
    if exact is None and norm.tensor is not None:
        exact = stats.examine(norm.tensor)
    if exact is None:
        counts[:, i] = np.nan
        return
    l2[i] = exact.l2
    counts[:, i] = exact.nan_count, exact.inf_count
