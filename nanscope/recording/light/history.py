"""History: what is known of each step, in memory, and its row should the run leave a file."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nanscope.recording.light.look import NONE
from nanscope.recording.places import Layout, Places
from nanscope.recording.rows import saturated
from nanscope.recording.stats import Exact
from nanscope.run import MISSING, Floats

MOST_NUMBERS = 1 << 20  # of all steps: the oldest are forgotten


@dataclass(slots=True, eq=False)
class Brief:
    """One step.

    Attributes:
        norms: of the parameters' gradients.
        scale: what a gradient scaler multiplied the loss by.
        is_bad: whether its loss or a gradient is not finite; then `gradients` and `weights` were looked at.
    """

    number: int
    time: float
    loss: float | None
    norms: Sequence[float]
    scalars: dict[str, float]
    scale: float = 1.0
    is_bad: bool = False
    gradients: Sequence[Exact | None] = ()
    weights: Sequence[Exact | None] = ()


class History:
    """Of one model."""

    def __init__(self) -> None:
        self._steps: deque[Brief] = deque()
        self._numbers = 0

    def __iter__(self) -> Iterator[Brief]:
        return iter(self._steps)

    def add(self, step: Brief) -> None:
        """A step has ended."""
        self._steps.append(step)
        self._numbers += 1 + len(step.norms)
        while self._numbers > MOST_NUMBERS:
            self._numbers -= 1 + len(self._steps.popleft().norms)


def row_of(step: Brief, layout: Layout, places: Places) -> Floats:
    """The row of a step, shape (columns,); loss and gradients are divided by the loss scale."""
    row = np.full(len(layout.columns), MISSING, np.float32)
    for place, norm in zip(places.grads, step.norms, strict=False):
        if norm != NONE and np.isfinite(norm):
            _put(row, layout, place, Exact(norm / step.scale, 0, 0))
    for those, seen in ((places.grads, step.gradients), (places.weights, step.weights)):
        for place, one in zip(those, seen, strict=False):
            if one is not None:
                _put(row, layout, place, one)
    known = step.scalars | ({} if step.loss is None else {"loss": step.loss / step.scale})
    for name in known.keys() & layout.scalars.keys():
        row[layout.scalars[name]] = _single(known[name])
    return row


def _put(row: Floats, layout: Layout, place: int, seen: Exact) -> None:
    row[layout.position["l2"][place]] = _single(seen.l2)
    row[layout.position["nan_count"][place]] = seen.nan_count
    row[layout.position["inf_count"][place]] = seen.inf_count


def _single(number: float) -> float:
    return float(saturated(np.array([number]))[0])
