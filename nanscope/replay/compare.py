"""Compare: cases over one axis, what each is at one position of it, and where one leaves the baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanscope.numbers import count
from nanscope.replay.axis import Axis, Unit
from nanscope.replay.cases import Case
from nanscope.replay.columns import Edges
from nanscope.replay.place import Place
from nanscope.replay.stops import divergence
from nanscope.values import Epoch

APART = 20.0
"""Cases of which one is this many times as long as another are told apart on a logarithmic axis only."""
LEAST = 1e-6  # of the axis that is shown in logarithms at most


@dataclass(frozen=True, slots=True)
class Stretch:
    """Part of the axis, `low` to `high` in its unit, divided evenly or by equal factors."""

    low: float
    high: float
    logarithmic: bool = False

    def positions(self, columns: int) -> NDArray[np.float64]:
        """Where columns begin and the last one ends, shape (columns + 1,)."""
        share = np.arange(columns + 1) / max(1, columns)
        if self.logarithmic:
            return self.low * (self.high / self.low) ** share
        return self.low + (self.high - self.low) * share

    def column(self, position: float, columns: int) -> int:
        """The column that holds a position, the nearest one if none does."""
        if self.logarithmic:
            share = math.log(max(position, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = (position - self.low) / max(self.high - self.low, 1e-30)
        return max(0, min(columns - 1, int(share * columns)))


@dataclass(frozen=True, slots=True)
class Standing:
    """What a case is at a position.

    Attributes:
        row: its last one at or before the position.
        begun: whether it has made a step by then.
        epoch: the last evaluation by then, None before the first.
    """

    row: int
    begun: bool
    loss: float | None
    epoch: Epoch | None


def stretch_of(place: Place, cases: Sequence[Case], axes: Sequence[Axis]) -> Stretch:
    """The window of the case in focus; of all cases, if the window holds all of that case."""
    unit, axis = place.unit, axes[place.case]
    if place.start or place.stop < place.rows:
        low = axis.at(place.start - 1, unit) if place.start else 0.0
        return Stretch(low, axis.at(place.stop - 1, unit))
    told = [pair for pair in zip(axes, cases, strict=True) if pair[1].rows]
    ends = [axis.at(case.rows - 1, unit) for axis, case in told] or [1.0]
    firsts = [first for axis, _ in told if (first := axis.at(0, unit)) > 0]
    high, low = max(ends), max(min(firsts, default=1.0), LEAST * max(ends))
    far = min(ends) * APART < high and low < high
    return Stretch(low, high, logarithmic=True) if far else Stretch(0.0, high)


def edges_at(case: Case, axis: Axis, positions: NDArray[np.float64], unit: Unit) -> Edges:
    """The rows of a case between positions; empty where it has none.

    A column that is narrower than a step holds the step that is under way.
    """
    rows, columns = case.rows, len(positions) - 1
    if not rows:
        return Edges(np.zeros(columns, np.int64), np.zeros(columns, np.int64))
    first, last = axis.at(0, unit), axis.at(rows - 1, unit)
    ends = np.array([rows if x >= last else axis.row(x, unit) + 1 if x >= first else 0 for x in positions])
    starts = np.minimum(ends[:-1], rows)
    held = (positions[1:] >= first) & (positions[:-1] < last)
    return Edges(np.where(held, np.minimum(starts, np.maximum(ends[1:] - 1, 0)), starts), ends[1:])


def standing(case: Case, axis: Axis, position: float, unit: Unit) -> Standing:
    """A case at a position of the axis."""
    if not case.rows:
        return Standing(0, begun=False, loss=None, epoch=None)
    row = axis.row(position, unit)
    begun = axis.at(0, unit) <= position
    known = begun and case.run.has(None, "loss")
    loss = float(case.reader.rows(case.run.index(None, "loss"), row, row + 1)[0]) if known else None
    made = case.step(row) + 1 if begun else 0
    epoch = next((each for each in reversed(case.run.epochs) if each.step <= made), None)
    return Standing(row, begun=begun, loss=loss, epoch=epoch)


def parting(cases: Sequence[Case], axes: Sequence[Axis], case: int, baseline: int) -> str:
    """Where a case leaves the baseline, in words; for the baseline itself where the last other one does."""
    if case == baseline:
        case = next(number for number in reversed(range(len(cases))) if number != baseline)
    names = f"{cases[case].label} from {cases[baseline].label}"
    if not all(cases[number].run.has(None, "loss") for number in (case, baseline)):
        return f"D  first divergence of {names}: not known, a loss was not recorded"
    row = divergence(cases[case], cases[baseline])
    if row is None:
        return f"D  first divergence of {names}: none, its loss stays below twice the baseline's"
    sample = count(round(axes[case].at(row, Unit.SAMPLES)))
    where = f"step {cases[case].step(row)}, sample {sample}"
    return f"D  first divergence of {names}: {where}: loss over 2x, for good"
