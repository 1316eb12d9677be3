"""The ledger: ended steps become rows, in order, a few at a time.

Steps wait until there are enough to be worth a batch, but never long, and not at all while something is
wrong: a row that matters is written in its own step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nanscope.recording.alert import Alert
from nanscope.recording.arena import ROWS
from nanscope.recording.places import Layout, Places
from nanscope.recording.rows import Rows, Step
from nanscope.recording.sink import Sink
from nanscope.recording.waiting import Waiting
from nanscope.run import Column, Floats, is_nonfinite
from nanscope.values import Kind, Phase, Site

PATIENCE = 0.2  # seconds that an ended step may wait for others

PHASES = {
    Kind.INPUT: Phase.DATA,
    Kind.OUTPUT: Phase.FORWARD,
    Kind.GRAD_OUTPUT: Phase.BACKWARD,
    Kind.GRAD: Phase.BACKWARD,
    Kind.WEIGHT: Phase.UPDATE,
    Kind.UPDATE: Phase.UPDATE,
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


class Ledger:
    """Writes steps down.

    Attributes:
        trouble: the first harmful non-finite value, None so far.
        broken: whether anything non-finite was written, harmful or not.
        alert: whether the coming steps are looked at closely.
    """

    def __init__(
        self, places: Places, sites: tuple[Site, ...], layout: Layout, readings: Waiting, sink: Sink
    ) -> None:
        self._sites = sites
        self._readings = readings
        self._harmful = [i for i, site in enumerate(sites) if site.kind in (Kind.GRAD, Kind.WEIGHT)]
        self._backward = [i for i, site in enumerate(sites) if site.kind in (Kind.GRAD, Kind.GRAD_OUTPUT)]
        self._layout = layout
        self._rows = Rows(layout, places)
        self._sink = sink
        self._waiting: list[Step] = []
        self._last: tuple[int, Floats] | None = None
        self.trouble: Trouble | None = None
        self.broken = False
        self.alert = Alert()

    @property
    def columns(self) -> tuple[Column, ...]:
        """What the rows hold."""
        return self._layout.columns

    def follow(self, before: Ledger) -> None:
        """Go on where the ledger of the same run, for the sites it had until now, has stopped."""
        self.trouble, self.broken, self.alert = before.trouble, before.broken, before.alert

    def end(self, step: Step) -> None:
        """Take an ended step; write it now if it matters or enough are waiting."""
        self._waiting.append(step)
        patient = step.time - self._waiting[0].time < PATIENCE and len(self._waiting) < ROWS
        if self._urgent(step) or not patient:
            self.write()

    def _urgent(self, step: Step) -> bool:
        losses = [reading.loss for reading in step.readings if reading.loss is not None]
        scale = step.scale if isinstance(step.scale, float) and step.scale > 0 else 1.0
        alarm = bool(losses) and self.alert.notice_loss(step.number, sum(losses) / scale)
        if self._sink.waits:  # nothing would be lost with the process that is not lost anyway
            return step.broken
        return alarm or step.weights is not None or step.broken

    def write(self, *, wait: bool = False) -> None:
        """Write every step whose numbers have come; with `wait`, all steps."""
        count = len(self._waiting) if wait else _count_ready(self._waiting)
        steps = self._waiting[:count]
        if not steps:
            return
        with np.errstate(all="ignore"):  # NaN and inf are what this is about; some users make warnings errors
            self._readings.measure(wait=wait)
            rows = self._rows.build(steps)
            totals = np.nan_to_num(rows[:, : len(self._sites)].astype(np.float64), posinf=math.inf).sum(
                axis=1
            )
        for step, row, total in zip(steps, rows, totals, strict=True):
            self._waiting.pop(0)  # not before: an interrupt while they were measured must not lose them
            if not _is_skipped(step):
                self.alert.notice_norms(step.number, float(total))
            self._write(step, row, more=step is not steps[-1])
        self._last = steps[-1].number, rows[-1].copy()

    def _write(self, step: Step, row: Floats, *, more: bool) -> None:
        self._own_scalars(row, step.scalars)
        self._sink.append(step.number, step.time, row, more=more)
        if self.alert.raised_at == step.number:
            self._sink.keep()
        if step.broken:
            trouble = self._trouble(step, row)
            if trouble is None and _is_skipped(step):
                return  # the scaler saw it, and nothing came of it
            if not self.broken:
                self._sink.keep()
            self.broken = True
            self.trouble = self.trouble or trouble

    def log(self, scalars: Mapping[str, float]) -> None:
        """Add scalars to the step that ended last."""
        if self._waiting:
            self._waiting[-1].scalars.update(scalars)
        elif self._last is not None:
            row = self._last[1]
            for name in scalars.keys() & self._layout.scalars.keys():
                with np.errstate(over="ignore"):
                    row[self._layout.scalars[name]] = scalars[name]
            self._own_scalars(row, scalars)
            self._sink.amend(row)

    def latest(self) -> Latest | None:
        """The step that ended last, in brief."""
        self.write()
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

    def _own_scalars(self, row: Floats, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            if name not in self._layout.scalars and (column := self._sink.column(name)) is not None:
                with np.errstate(over="ignore"):  # a value beyond float32 becomes inf
                    row[column] = value

    def _trouble(self, step: Step, row: Floats) -> Trouble | None:
        number, bad = step.number, is_nonfinite(row[: len(self._sites)])
        if _is_skipped(step):
            bad[self._backward] = False
        loss_is_bad = bool(is_nonfinite(row[self._layout.scalars["loss"], None])[0])
        if not loss_is_bad and not bad[self._harmful].any():
            return None  # an infinity that the program means, such as a mask
        sites = sorted((self._sites[i] for i in np.flatnonzero(bad)), key=_rank)
        if not sites or (loss_is_bad and PHASES[sites[0].kind] in (Phase.BACKWARD, Phase.UPDATE)):
            return Trouble(number, Phase.LOSS, None)
        return Trouble(number, PHASES[sites[0].kind], sites[0])


def _is_skipped(step: Step) -> bool:
    """Whether a gradient scaler has skipped all updates of the step."""
    return step.scalars.get("skipped", 0.0) >= 1


def _count_ready(steps: list[Step]) -> int:
    return next((i for i, step in enumerate(steps) if not step.ready), len(steps))


def _rank(site: Site) -> tuple[int, int]:
    phase = list(Phase).index(PHASES[site.kind])
    return phase, -site.order if PHASES[site.kind] is Phase.BACKWARD else site.order
