"""The ledger: ended steps become rows, in order, as soon as their numbers are on the host."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from nanscope.recording.alert import Alert
from nanscope.recording.measure import Measurement
from nanscope.recording.places import Layout, Places
from nanscope.recording.rows import Rows, Step
from nanscope.recording.sink import Sink
from nanscope.recording.transfer import Reading
from nanscope.run import Floats, Header
from nanscope.values import Kind, Phase, Site

HeaderMaker = Callable[[Layout], Header]
PHASES = {
    Kind.INPUT: Phase.DATA,
    Kind.OUTPUT: Phase.FORWARD,
    Kind.GRAD_OUTPUT: Phase.BACKWARD,
    Kind.GRAD: Phase.BACKWARD,
    Kind.WEIGHT: Phase.UPDATE,
}


@dataclass(frozen=True, slots=True)
class Trouble:
    """The first harmful non-finite value of a run: one that reached a loss, a gradient or a parameter.

    `site` is the first place in that step, in the order of execution, None when only the loss was not finite.
    """

    step: int
    phase: Phase
    site: Site | None


@dataclass(frozen=True, slots=True)
class Latest:
    """The last row in brief. `worst` is the output or gradient with the largest norm."""

    step: int
    loss: float
    worst: Site | None
    worst_l2: float


@dataclass(slots=True)
class OpenStep:
    """A step whose numbers may still be on the device."""

    number: int
    time: float = 0.0
    readings: list[Reading] = field(default_factory=list)
    weights: Reading | None = None
    scalars: dict[str, float] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether all numbers are on the host."""
        return all(r.ready for r in self.readings) and (self.weights is None or self.weights.ready)

    def close(self) -> Step:
        """The step with its numbers; waits for those that are not there yet."""
        measurements = [reading.measurement() for reading in self.readings]
        scalars = dict(self.scalars)
        losses = [m.loss for m in measurements if m.loss is not None]
        if losses:
            scalars["loss"] = math.fsum(losses) if all(map(math.isfinite, losses)) else sum(losses)
        scalars["samples"] = sum(m.samples for m in measurements)
        weights = None if self.weights is None else self.weights.measurement()
        return Step(self.number, self.time, measurements, weights, scalars)


class Ledger:
    """Writes steps down.

    Attributes:
        trouble: the first harmful non-finite value, None so far.
        alert: whether the coming steps are looked at closely.
        steps: ended steps, written or on their way.
    """

    def __init__(self, places: Places, sites: tuple[Site, ...], layout: Layout, sink: Sink) -> None:
        self._sites = sites
        self._harmful = frozenset((*places.grads, *places.weights))
        self._layout = layout
        self._rows = Rows(layout, frozenset(places.grads))
        self._sink = sink
        self._waiting: deque[OpenStep] = deque()
        self._last: tuple[int, Floats] | None = None
        self.trouble: Trouble | None = None
        self.alert = Alert()

    def end(self, step: OpenStep) -> None:
        """Take an ended step, and write every step whose numbers have come."""
        self._waiting.append(step)
        self.write()

    def write(self, *, wait: bool = False) -> None:
        """Write what is ready; with `wait`, everything."""
        while self._waiting and (wait or self._waiting[0].ready):
            self._write(self._waiting.popleft().close())

    def _write(self, step: Step) -> None:
        row = self._rows.build(step)
        self._own_scalars(row, step.scalars)
        self._last = (step.number, row)
        self._sink.append(step.number, step.time, row)
        self.alert.notice(step.number, row[: len(self._sites)])
        if self.trouble is None:
            self.trouble = self._trouble(step)

    def _own_scalars(self, row: Floats, scalars: Mapping[str, float]) -> None:
        for name in scalars.keys() - self._layout.scalars.keys():
            column = self._sink.column(name)
            if column is not None:
                row[column] = scalars[name]

    def log(self, scalars: Mapping[str, float]) -> None:
        """Add scalars to the step written last."""
        self.write(wait=True)
        if self._last is None:
            return
        row = self._last[1]
        for name in scalars.keys() & self._layout.scalars.keys():
            row[self._layout.scalars[name]] = scalars[name]
        self._own_scalars(row, scalars)
        self._sink.amend(row)

    def latest(self) -> Latest | None:
        """The step written last, in brief."""
        if self._last is None:
            return None
        number, row = self._last
        l2 = row[: len(self._sites)]
        shown = [i for i, s in enumerate(self._sites) if s.kind is not Kind.WEIGHT and not np.isnan(l2[i])]
        worst = max(shown, key=lambda i: float(l2[i]), default=None)
        loss = float(row[self._layout.scalars["loss"]])
        if worst is None:
            return Latest(number, loss, None, math.nan)
        return Latest(number, loss, self._sites[worst], float(l2[worst]))

    def _trouble(self, step: Step) -> Trouble | None:
        measured = [*step.measurements, *([step.weights] if step.weights else [])]
        if all(m.finite for m in measured):
            return None
        broken = [place for m in measured for place in _broken(m)]
        loss_broken = not all(m.loss is None or math.isfinite(m.loss) for m in measured)
        if not loss_broken and self._harmful.isdisjoint(broken):
            return None  # an infinity that the program means, such as a mask
        sites = sorted((self._sites[place] for place in broken), key=_rank)
        if not sites or (loss_broken and PHASES[sites[0].kind] in (Phase.BACKWARD, Phase.UPDATE)):
            return Trouble(step.number, Phase.LOSS, None)
        return Trouble(step.number, PHASES[sites[0].kind], sites[0])


def _broken(measured: Measurement) -> list[int]:
    return [measured.places[i] for i in np.flatnonzero(~np.isfinite(measured.l2))]


def _rank(site: Site) -> tuple[int, int]:
    phase = list(Phase).index(PHASES[site.kind])
    return phase, -site.order if PHASES[site.kind] is Phase.BACKWARD else site.order
