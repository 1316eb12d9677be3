"""What the training job tells while it runs, and how often."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from nanscope.values import Epoch


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training stands.

    Attributes:
        epoch: the epoch being trained, from 1 to `epochs`.
        step: steps completed, of `total`.
        loss: training loss of the latest step that the recorder has read; NaN also while there is none.
        accuracy: share of right predictions among the latest training samples, as they were trained on.
        worst: the site with the largest norm in that step; empty until one is known.
        worst_l2: its norm.
        trouble: step, phase and site of the first non-finite value; None while there is none.
        evaluation: the latest evaluation on the test part; None before the first.
    """

    epoch: int
    epochs: int
    step: int
    total: int
    loss: float
    accuracy: float
    worst: str = ""
    worst_l2: float = float("nan")
    trouble: str | None = None
    evaluation: Epoch | None = None


OnProgress = Callable[[Progress], None]
"""Told where the training stands; it runs between two steps, so it must not linger."""


class Pace:
    """Says when it is time again, at most once in `interval` seconds; the first time is at once."""

    def __init__(self, interval: float = 0.1, clock: Callable[[], float] = time.perf_counter) -> None:
        self._interval = interval
        self._clock = clock
        self._next = -float("inf")

    def due(self) -> bool:
        """Whether the interval is over; if so, the next one begins. Costs one look at the clock."""
        now = self._clock()
        if now < self._next:
            return False
        self._next = now + self._interval
        return True
