"""From the measurements of a step to its row in the run file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nanscope.recording.measure import Doubles, Measurement
from nanscope.recording.places import Layout
from nanscope.recording.stats import FLOAT32_MAX
from nanscope.run import MISSING, Floats

Indices = NDArray[np.intp]


@dataclass(slots=True)
class Step:
    """Everything known of one step: one measurement per backward pass, the rest once.

    Attributes:
        weights: the parameters after the update, if looked at.
        scalars: by name.
    """

    number: int
    time: float = 0.0
    measurements: list[Measurement] = field(default_factory=list)
    weights: Measurement | None = None
    scalars: dict[str, float] = field(default_factory=dict)


class Rows:
    """Builds rows of one layout.

    Args:
        grads: places of parameter gradients. These accumulate over the backward passes of a step by
            themselves, so that the last measurement holds; other places count as one concatenated tensor.
    """

    def __init__(self, layout: Layout, grads: frozenset[int]) -> None:
        self._layout = layout
        self._grads = grads
        self._blank = np.full(len(layout.columns), MISSING, np.float32)
        self._columns: dict[tuple[int, ...], tuple[Indices, Indices, Indices]] = {}

    def build(self, step: Step) -> Floats:
        """The row of a step, shape (columns,), float32; a finite value beyond float32 becomes its maximum."""
        row = self._blank.copy()
        if step.measurements:
            self._put(row, _joined(step.measurements, self._grads))
            _put_logits(row, self._layout.scalars, step.measurements)
        if step.weights is not None:
            self._put(row, step.weights)
        for name, value in step.scalars.items():
            if name in self._layout.scalars:
                row[self._layout.scalars[name]] = value
        return row

    def _put(self, row: Floats, measured: Measurement) -> None:
        l2, nan_count, inf_count = self._at(measured.places)
        row[l2] = saturated(measured.l2)
        row[nan_count] = _known(measured.nan_count)
        row[inf_count] = _known(measured.inf_count)
        for place, fraction in measured.dead.items():
            row[self._layout.position["dead_fraction"][place]] = fraction
        if measured.peaked:
            peak = self._layout.position["abs_max"]
            for place, value in zip(measured.peaked, saturated(measured.abs_max), strict=True):
                row[peak[place]] = np.fmax(row[peak[place]], value) if np.isfinite(value) else value

    def _at(self, places: tuple[int, ...]) -> tuple[Indices, Indices, Indices]:
        if places not in self._columns:
            position = self._layout.position
            self._columns[places] = tuple(  # type: ignore[assignment]  # three, by the line below
                np.array([position[stat][place] for place in places], np.intp)
                for stat in ("l2", "nan_count", "inf_count")
            )
        return self._columns[places]


def saturated(values: Doubles) -> Floats:
    """As float32, with finite values beyond its range kept finite: they are large, not infinite."""
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    overflowed = np.isinf(single) & np.isfinite(values)
    if overflowed.any():
        single[overflowed] = np.copysign(FLOAT32_MAX, values[overflowed])
    return single


def _known(counts: Doubles) -> Floats:
    single = counts.astype(np.float32)
    single[np.isnan(counts)] = MISSING
    return single


def _joined(measurements: Sequence[Measurement], grads: frozenset[int]) -> Measurement:
    first = measurements[0]
    if len(measurements) == 1 and len(set(first.places)) == len(first.places):
        return first
    table: dict[int, Doubles] = {}
    for m in measurements:
        numbers = np.stack((m.l2**2, m.nan_count, m.inf_count), axis=1)
        for place, new in zip(m.places, numbers, strict=True):
            table[place] = new if place in grads or place not in table else table[place] + new
    square, nan_count, inf_count = np.array(list(table.values())).T
    return Measurement(
        places=tuple(table),
        l2=np.sqrt(square),
        nan_count=nan_count,
        inf_count=inf_count,
        peaked=tuple(place for m in measurements for place in m.peaked),
        abs_max=np.concatenate([m.abs_max for m in measurements]),
        dead={place: fraction for m in measurements for place, fraction in m.dead.items()},
        loss=None,
        logits=first.logits,
        rows=(),
        samples=0,
        finite=all(m.finite for m in measurements),
    )


def _put_logits(row: Floats, columns: Mapping[str, int], measurements: Sequence[Measurement]) -> None:
    found = [m.logits for m in measurements if m.logits.size]
    if not found or "logits_abs_max" not in columns:
        return
    widths = {logits.shape[1] for logits in found}
    if len(widths) > 1:
        return  # outputs of changing width have no classes to count
    logits = np.concatenate(found)
    rows = sum(sum(m.rows) for m in measurements)
    row[columns["logits_abs_max"]] = saturated(logits[:, 0].max(keepdims=True))[0]
    row[columns["logits_margin"]] = logits[:, 1].sum() / max(rows, 1)
    row[columns["predicted_nan"]] = logits[:, 2].sum()
    for number, count in enumerate(logits[:, 3:].sum(0)):
        row[columns[f"predicted_{number}"]] = count
