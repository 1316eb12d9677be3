"""Is the run near trouble? Then the recorder looks closely at every step."""

from __future__ import annotations

import math

WINDOW = 100  # steps between looks in calm weather, and of close looks after an alarm
MOST_WINDOWS = 5  # between looks at the weights, when a step is of one sample
LEARN = 10  # steps at the start that are all looked at: what is usual is not known yet
UNUSUAL = 10.0  # times the largest value of the last one to two windows


class Level:
    """How high a quantity usually is: the largest finite value of the last one to two windows."""

    def __init__(self) -> None:
        self._recent = self._before = 0.0
        self._limit = math.inf

    def unusual(self, step: int, value: float) -> bool:
        """Whether the value of a step is far above the usual; it becomes part of it."""
        if math.isfinite(value):
            self._recent = max(self._recent, value)
        unusual = not math.isfinite(value) or value > self._limit
        if step == LEARN or step % WINDOW == WINDOW - 1:
            self._limit = UNUSUAL * max(self._before, self._recent)
            self._before, self._recent = self._recent, 0.0
        return unusual


class Alert:
    """Follows the loss, which is known at once, and the sum of all norms, which follows a few steps later.

    Attributes:
        raised_at: the first step of the alarm that is on, or was last; -1 without one.
    """

    def __init__(self) -> None:
        self.raised_at = -1
        self._loss, self._norms = Level(), Level()
        self._until = LEARN

    def due(self, step: int) -> bool:
        """Whether this step is to be looked at closely."""
        return step < self._until or step % WINDOW == 0

    def looks(self, step: int, samples: int) -> bool:
        """Whether the weights are to be looked at in this step.

        That costs several passes over them. A step of few samples makes few passes itself, and so these are
        spread over more of them: in calm weather they take half a per cent.
        """
        every = WINDOW * max(1, MOST_WINDOWS // max(1, samples))
        return step < self._until or step % every == 0

    def notice_loss(self, step: int, loss: float) -> bool:
        """Take in the loss of a step; whether it is alarming."""
        return self._raise(step, self._loss.unusual(step, abs(loss)))

    def notice_norms(self, step: int, total: float) -> None:
        """Take in the sum of the norms of a step."""
        self._raise(step, self._norms.unusual(step, total))

    def _raise(self, step: int, alarm: bool) -> bool:
        if alarm:
            if step > self._until:
                self.raised_at = step
            self._until = max(self._until, step + WINDOW)
        return alarm
