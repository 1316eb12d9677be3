"""From the readings of steps to their rows in the run file, many steps at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanscope.recording import stats
from nanscope.recording.places import Layout, Places
from nanscope.recording.plan import Plan
from nanscope.recording.reading import Reading
from nanscope.recording.scaling import Number, scaled_positions, unscale
from nanscope.recording.travelling import Travelling
from nanscope.run import MISSING, Floats

SCALE = ""  # its name among what a scaler told; no scalar has it
Doubles = NDArray[np.float64]
Indices = NDArray[np.intp]


@dataclass(slots=True, eq=False)
class Step:
    """A step whose numbers may still be on the device: one reading per backward pass.

    Attributes:
        weights: the parameters after the update, if they were looked at.
        scale: what a gradient scaler multiplied the loss by, None without one.
        told: what the scaler said, and the scale as `SCALE`; read when the row is built.
        scalars: by name.
    """

    number: int
    time: float = 0.0
    readings: list[Reading] = field(default_factory=list)
    weights: Reading | None = None
    scale: Number | None = None
    told: Travelling | None = None
    scalars: dict[str, float] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether all numbers are on the host."""
        if self.told is not None and not self.told.ready:
            return False
        return all(r.ready for r in self.readings) and (self.weights is None or self.weights.ready)

    @property
    def broken(self) -> bool:
        """Whether something in it is known to be non-finite."""
        for reading in self.readings:
            if reading.broken:
                return True
        return self.weights is not None and self.weights.broken

    @property
    def plan(self) -> Plan | None:
        """What its only reading holds; None with several: such a step is built by itself."""
        return self.readings[0].plan if len(self.readings) == 1 else None


@dataclass(frozen=True, slots=True)
class Table:
    """Norms of several steps; arrays of shape (steps, places). A count that nobody could take is NaN."""

    places: tuple[int, ...]
    l2: Doubles
    nan_count: Doubles
    inf_count: Doubles


class Rows:
    """Builds rows of one layout.

    Args:
        places: of the model. Gradients of parameters accumulate over the backward passes of a step by
            themselves, so that the last reading holds; other places count as one concatenated tensor.
    """

    def __init__(self, layout: Layout, places: Places) -> None:
        self._layout = layout
        self._scaled = scaled_positions(layout.columns)
        self._weight_of = dict(zip(places.updates, places.weights, strict=True))
        self._grads = frozenset(places.grads)
        self._first_of_logits = layout.scalars.get("logits_abs_max")  # the others follow
        self._classes = max(0, sum(name.startswith("predicted_") for name in layout.scalars) - 1)
        self._blank = np.full(len(layout.columns), MISSING, np.float32)
        self._indices: dict[tuple[str, tuple[int, ...]], Indices] = {}

    def build(self, steps: Sequence[Step]) -> Floats:
        """The rows of steps, shape (steps, columns); a finite value beyond float32 becomes its maximum."""
        scales = np.array([_scale(step) for step in steps])
        rows = np.tile(self._blank, (len(steps), 1))
        begin = 0
        for plan, group in groupby(steps, key=lambda step: step.plan):
            alike = list(group)
            some = rows[begin : begin + len(alike)]
            if plan is not None:
                self._fill(some, plan, alike)
            else:
                for row, step in zip(some, alike, strict=True):
                    self._fill_from_several(row[None], step)
            begin += len(alike)
        unscale(rows, self._scaled, scales)
        for name in {name for step in steps for name in step.scalars} & self._layout.scalars.keys():
            known = [i for i, step in enumerate(steps) if name in step.scalars]
            rows[known, self._layout.scalars[name]] = [steps[i].scalars[name] for i in known]
        for row, step in zip(rows, steps, strict=True):
            if step.weights is not None:
                self._put(row[None], _table(step.weights.plan, [step.weights]))
                self._put_peaks(row[None], step.weights.plan, _numbers([step.weights]))
                self._put_ratios(row, [p for p in step.weights.plan.places if p in self._weight_of])
                self._put_dead(row, step.weights)  # the window was completed with the step's last reading
        return rows

    def _fill(self, rows: Floats, plan: Plan, steps: list[Step]) -> None:
        readings = [step.readings[0] for step in steps]
        table = _table(plan, readings)
        if len(set(table.places)) < len(table.places):
            table = _merged([table], self._grads)
        self._put(rows, table)
        self._put_peaks(rows, plan, _numbers(readings))
        predicted = [reading.predicted for reading in readings if reading.predicted is not None]
        if len(predicted) == len(readings):
            self._put_predicted(rows, np.stack(predicted))
        else:
            self._put_logits(rows, [_intact(reading) for reading in readings])
        losses = np.array([np.nan if r.loss is None else r.loss for r in readings])
        if not any(r.loss is None for r in readings):
            rows[:, self._layout.scalars["loss"]] = saturated(losses)
        rows[:, self._layout.scalars["samples"]] = [r.samples for r in readings]
        for row, reading in zip(rows, readings, strict=True):
            self._put_dead(row, reading)

    def _fill_from_several(self, row: Floats, step: Step) -> None:
        if not step.readings:
            return
        self._put(row, _merged([_table(r.plan, [r]) for r in step.readings], self._grads))
        self._put_logits(row, [[logits for r in step.readings for logits in _intact(r)]])
        for reading in step.readings:
            self._put_peaks(row, reading.plan, _numbers([reading]))
        losses = [reading.loss for reading in step.readings if reading.loss is not None]
        if losses:
            row[:, self._layout.scalars["loss"]] = saturated(np.array([sum(losses)]))
        row[:, self._layout.scalars["samples"]] = sum(reading.samples for reading in step.readings)
        for reading in step.readings:
            self._put_dead(row[0], reading)

    def _put_ratios(self, row: Floats, seen: Sequence[int]) -> None:
        """Of the parameters whose updates were measured: what share the update is of the weight."""
        l2, ratio = self._layout.position["l2"], self._layout.position["ratio"]
        for place in seen:
            weight, moved = row[l2[self._weight_of[place]]], row[l2[place]]
            if weight > 0:
                row[ratio[place]] = moved / weight

    def _put_dead(self, row: Floats, reading: Reading) -> None:
        for place, fraction in reading.dead.items():
            row[self._layout.position["dead_fraction"][place]] = fraction

    def _put(self, rows: Floats, table: Table) -> None:
        rows[:, self._at("l2", table.places)] = saturated(table.l2)
        counted = [i for i, place in enumerate(table.places) if place not in self._weight_of]
        places = tuple([table.places[i] for i in counted])
        rows[:, self._at("nan_count", places)] = _or_missing(table.nan_count[:, counted])
        rows[:, self._at("inf_count", places)] = _or_missing(table.inf_count[:, counted])

    def _put_peaks(self, rows: Floats, plan: Plan, numbers: Doubles) -> None:
        """The largest absolute values, which follow the norms."""
        if plan.peaked:
            # a module called twice has two: the larger holds; MISSING is a NaN that fmax passes over
            at: Any = slice(None), self._at("abs_max", plan.peaked)
            np.fmax.at(rows, at, saturated(numbers[:, plan.taken :]))

    def _put_logits(self, rows: Floats, logits: Sequence[Sequence[Tensor]]) -> None:
        """Steps of any number of passes; one tensor per pass: logits, or what was found in them."""
        if self._first_of_logits is None:
            return
        together = _alike(logits, count=self._classes > 0)
        if together is not None:
            self._put_predicted(rows, together)
            return
        for row, step in zip(rows, logits, strict=True):
            found = _stats_of_passes(step, count=self._classes > 0)
            if len(found):
                largest = found[:, 0].max(), np.fmax.reduce(found[:, 1])
                total = np.concatenate((largest, found[:, 2:].sum(0)))
                self._put_predicted(row[None], total[None])

    def _put_predicted(self, rows: Floats, found: Doubles) -> None:
        """Write `stats.logit_stats` of steps, shape (steps, numbers)."""
        first, width = self._first_of_logits, 4 + self._classes
        # otherwise there were none, or the output had another width and so other classes
        if first is not None and found.shape[1] == width + 1:
            rows[:, first : first + width] = saturated(found[:, :-1])
            rows[:, first + 2] = saturated(found[:, 2] / found[:, -1])
            unknown = np.isnan(found[:, 1]) & np.isfinite(found[:, 0])  # of a single row
            rows[unknown, first + 1] = MISSING

    def _at(self, stat: str, places: tuple[int, ...]) -> Indices:
        key = stat, places
        if key not in self._indices:
            position = self._layout.position[stat]
            self._indices[key] = np.array([position[place] for place in places], np.intp)
        return self._indices[key]


def _scale(step: Step) -> float:
    """What the step's loss was multiplied by; what the scaler said becomes scalars of the step."""
    if step.told is None:
        return 1.0
    told = step.told.read()
    scale = told.pop(SCALE, 1.0)
    step.scalars.update(told)
    return scale


def saturated(values: Doubles) -> Floats:
    """As float32, with finite values beyond its range kept finite: they are large, not infinite."""
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    overflowed = np.isinf(single) & np.isfinite(values)
    if overflowed.any():
        single[overflowed] = np.copysign(np.finfo(np.float32).max, values[overflowed])
    return single


def _or_missing(counts: Doubles) -> Floats:
    single = counts.astype(np.float32)
    single[np.isnan(counts)] = MISSING
    return single


def _numbers(readings: Sequence[Reading]) -> Doubles:
    return np.stack([reading.numbers for reading in readings if reading.numbers is not None])


def _intact(reading: Reading) -> list[Tensor]:
    """The logits that nobody has written into, or what was found in them."""
    if reading.predicted is not None:
        return [torch.from_numpy(reading.predicted)]
    return [logits for logits, version in reading.logits if logits._version == version]


def _table(plan: Plan, readings: Sequence[Reading]) -> Table:
    numbers = _numbers(readings)
    derived = [numbers[:, i] if j is None else numbers[:, i] * numbers[:, j] for _, i, j in plan.derived]
    l2 = np.column_stack((numbers[:, : len(plan.places)], *derived))
    nan_count = np.where(np.isfinite(l2), 0.0, np.nan)
    inf_count = nan_count.copy()
    for row, reading in enumerate(readings):
        for i, exact in reading.exact.items():
            l2[row, i], nan_count[row, i], inf_count[row, i] = exact.l2, exact.nan_count, exact.inf_count
    return Table(plan.order, l2, nan_count, inf_count)


def _merged(tables: Iterable[Table], grads: frozenset[int]) -> Table:
    """One column per place: the concatenation of all its tensors; of a parameter's gradient the last."""
    merged: dict[int, Doubles] = {}
    for table in tables:
        stacked = np.stack((table.l2**2, table.nan_count, table.inf_count))
        for i, place in enumerate(table.places):
            fresh = stacked[:, :, i]
            merged[place] = fresh if place in grads or place not in merged else merged[place] + fresh
    square, nan_count, inf_count = np.stack(list(merged.values()), axis=2)
    return Table(tuple(merged), np.sqrt(square), nan_count, inf_count)


def _alike(logits: Sequence[Sequence[Tensor]], *, count: bool) -> Doubles | None:
    """`stats.logit_stats` of steps of one pass each, shape (steps, numbers); None if their shapes differ."""
    single = [step[0] for step in logits if len(step) == 1]
    if len(single) < len(logits) or len({tensor.shape for tensor in single}) > 1:
        return None
    stacked = torch.stack(single)
    found = stacked if stacked.dim() == 2 else stats.logit_stats(stacked, count=count)
    return found.double().cpu().numpy()


def _stats_of_passes(logits: Sequence[Tensor], *, count: bool) -> Doubles:
    if not logits:
        return np.empty((0, 0))
    ready = [t if t.dim() == 1 else stats.logit_stats(t[None], count=count)[0] for t in logits]
    width = min(len(t) for t in ready)
    return np.stack([t.double().cpu().numpy() for t in ready if len(t) == width])
