"""The recorder: watches an ordinary training loop and writes what it does to a run file.

The order of events in one step:

    forward of the root    the probes collect references
    backward()             when it returns, everything is measured in a few batched calls
    optimizer.step()       when it returns, the parameters are looked at (now and then) and the row is written
"""

from __future__ import annotations

import math
import time
from typing import Self

from torch import Tensor
from torch.optim import Optimizer

from nanscope.recording.base import BaseRecorder
from nanscope.recording.compiled import Hidden
from nanscope.recording.ledger import Latest, Ledger, Trouble
from nanscope.recording.measure import Gauge
from nanscope.recording.places import Layout
from nanscope.recording.probes import Probes
from nanscope.recording.reading import Reading
from nanscope.recording.rows import SCALE, Step
from nanscope.recording.samples import Doubles, Samples, heaviest
from nanscope.recording.scalars import scalar_names
from nanscope.recording.travelling import Travelling
from nanscope.recording.waiting import Waiting
from nanscope.recording.weights import Weights


class Recorder(BaseRecorder):
    """Records the norms of every layer at every step; made by `record`.

    Attributes:
        steps: ended steps.
        gives_way: whether it ends where another recorder of the same model begins.
        origin: the fields of the event `origin`, once the first harmful birth was found.
        noticed: the step in which something harmful was first noticed and looked into.
    """

    def __enter__(self) -> Self:
        self._ledger: Ledger | None = None
        self._witness: Tensor | None = None
        self._samples = Samples()
        self._looks: bool | None = None  # whether this update is looked at, once that is known
        return super().__enter__()

    def _watch_modules(self) -> Probes:
        self._grown = self._ledger is not None  # whether the ledger is one of sites that are no more
        self._readings = Waiting(self._places)
        self._gauge = Gauge(self._places, self._readings)
        self._weights = Weights(self._places)
        self._hidden = Hidden(self._model, self._places, self._tell_hidden)
        return Probes(
            self._model,
            self._places,
            fail=self._step_aside,
            pause=self._pause,
            renew=self._renew,
            logits=self._logits,
        )

    # -- what the user may call ------------------------------------------------------------------------

    @property
    def trouble(self) -> Trouble | None:
        """The first non-finite value that reached a loss, a gradient or a parameter; None so far."""
        return None if self._ledger is None else self._ledger.trouble

    @property
    def is_under_way(self) -> bool:
        """Whether a backward pass was made in a step that has not ended."""
        return bool(self._step.readings)

    def latest(self) -> Latest | None:
        """The last written step in brief, None before the first."""
        return None if self._ledger is None else self._ledger.latest()

    def sample_norms(self) -> dict[int, Doubles]:
        """Gradient norms of single samples, by step: of the last steps that were looked at closely.

        The first ten but one, every hundredth, those near trouble, and any whose loss is not finite.
        A norm is over the weights of the Linear layers whose input and output are small enough to be kept.
        """
        return dict(self._samples.kept)

    def log(self, **scalars: float) -> None:
        """Record scalars of the step under way, or, between two steps, of the one that just ended."""
        if self._ledger is None or self._under_way:
            super().log(**scalars)
        else:
            self._ledger.log({name: float(value) for name, value in scalars.items()})

    @property
    def _under_way(self) -> bool:
        return bool(self._step.readings) or not self._probes.empty

    def _write_down(self, *, wait: bool = False) -> None:
        if self._ledger is not None:
            self._ledger.write(wait=wait)

    # -- the backward pass -----------------------------------------------------------------------------

    def _prepare(self, roots: tuple[Tensor, ...]) -> None:
        if self._updates.begun:
            self._end_step()
        if self._witness is not None and self._witness.grad is None:
            self._step.readings = []  # the gradients of the passes before were thrown away: begin anew
            self._probes.begin_anew()
        self._rewinder.begin_backward(roots)
        probes = self._probes
        probes.begin_backward(roots)
        self._scale = self._scalers.scale_of(roots) if self._scalers.seen else None
        if not probes.usual.begun:
            self._gauge.begin(roots, probes.passes)

    def _measure(self, roots: tuple[Tensor, ...]) -> None:
        probes = self._probes
        probes.in_backward = False
        reading = self._gauge.follow(probes, roots)
        if reading is not None:
            if reading.broken:
                self._weigh_samples(reading)
            probes.spend_usual()
            if probes.routine is not None:
                self._witness = probes.routine.witness
        elif (reading := self._collect(roots)) is None:
            return  # a loss of another model
        self._step.readings.append(reading)
        if self._by_hand.wanted:
            self._by_hand.remember(self._places.parameters)
        self._backwards += 1
        self._step.scale = self._scale
        if reading.broken:
            self._tell_state()
        suspect = reading.broken or reading.suspect
        if self._scale is not None and reading.loss is not None and math.isfinite(reading.loss):
            suspect = False  # a scaler that seeks its level: it skips the update
        self._rewinder.end_backward(reading.loss, suspect=suspect)

    def _collect(self, roots: tuple[Tensor, ...]) -> Reading | None:
        """What a backward pass reached that went otherwise than the one before; None if nothing."""
        probes = self._probes
        probes.unfold(late=True)
        if not probes.reached:
            if not (probes.empty and self._hidden.reaches(roots, transformed=probes.transformed)):
                return None
            probes.touch()
        if self._ledger is None or self._grown:
            self._open_ledger(roots)
        reading = self._gauge.collect(probes, roots, count=self._classes)
        if reading.broken or probes.closely:
            self._weigh_samples(reading)
        self._hidden.look(probes.passes)
        probes.spend()
        self._witness = next((p for p in self._places.parameters if p.grad is not None), None)
        return reading

    def _weigh_samples(self, reading: Reading) -> None:
        """Which samples pull hardest: kept for the last close looks, noted once where something broke."""
        norms = self._samples.weigh(self.steps, self._probes.factors(), reading.samples)
        if norms is not None and reading.broken and not self._state_told:
            rows, heaviest_norms = heaviest(norms)
            self._sink.event("samples", self.steps, rows=rows, norms=heaviest_norms)

    # -- the update ------------------------------------------------------------------------------------

    def _before_update(self, optimizer: Optimizer) -> None:
        if not self._step.readings and (self._probes.transformed or not self._probes.empty):
            self._scale = None
            self._measure(())  # the gradients came by another way than backward()
        self._rewinder.begin_update(optimizer)  # first: it hears what follows no more
        if not self._looks:
            self._looks = self._wants_look()
            if self._looks:
                self._weights.remember()

    def _wants_look(self) -> bool:
        """Whether the parameters are to be looked at in this step."""
        step, ledger = self._step, self._ledger
        if ledger is None or step.broken:
            return True
        if self._sink.waits_for_trouble or not ledger.alert.due(step.number):
            return False  # what is known besides it is of no use before
        return ledger.alert.looks(step.number, sum(reading.samples for reading in step.readings))

    def _end_step(self) -> None:
        if self._ledger is None or self._grown:
            self._open_ledger(())
        assert self._ledger is not None
        step = self._step
        step.time = time.perf_counter() - self._zero
        if self._scalers.seen:
            step.told = Travelling(self._scalers.take() | ({} if step.scale is None else {SCALE: step.scale}))
        if self._wants_look() if self._looks is None else self._looks:
            step.weights = self._weights.reading()
            self._readings.add(step.weights)
        self._looks = None
        self._rewinder.end_step()
        self._ledger.end(step)
        self.steps += 1
        self._step = Step(self.steps)
        self._updates.clear()
        self._witness = None
        self._probes.clear()
        self._probes.closely = not self._sink.waits_for_trouble and self._ledger.alert.due(self.steps)
        if self._ledger.trouble and not self._rewinder.done:
            self._rewinder.trouble(step.number)
        if self._ledger.broken:
            self._tell_state()
        elif self._scalers.seen:
            self._state_told = False  # a skipped update is no reason not to look again

    # -- the run file ----------------------------------------------------------------------------------

    def _open_ledger(self, roots: tuple[Tensor, ...]) -> None:
        names, self._classes = scalar_names(self._probes, roots, named=self._logits is not None)
        seen = {m.place: str(m.dtype).removeprefix("torch.") for p in self._probes.passes for m in p.measured}
        sites = self._places.sites(seen)
        layout = Layout.of(self._places, sites, names)
        before, self._grown = self._ledger, False
        if before is None:
            self._open_file(layout)
        elif before.columns != layout.columns:
            self._sink.change(self._header(layout))
            self._sink.event("changed", self.steps, modules=list(self._places.modules))
        self._ledger = Ledger(self._places, sites, layout, self._readings, self._sink)
        if before is not None:
            self._ledger.follow(before)

    def _tell_hidden(self, kind: str, modules: list[str]) -> None:
        self._sink.event(kind, self.steps, modules=modules)

    def _write_the_rest(self) -> None:
        if self._ledger is not None:
            self._ledger.write(wait=True)
        elif not self._sink.is_open:
            self._open_file()

    def _open_file(self, layout: Layout | None = None) -> None:
        if layout is None:  # left before the first step: the file tells at least that
            layout = Layout.of(
                self._places, self._places.sites({}), scalar_names(self._probes, (), named=False)[0]
            )
        made = layout
        self._sink.open(lambda: self._header(made), self._room)
