"""Is the run near trouble? Then the recorder looks closely at every step."""

from __future__ import annotations

import math

WINDOW = 100  # steps between looks in calm weather, and of close looks after an alarm
LEARN = 10  # steps at the start that are all looked at: what is usual is not known yet
UNUSUAL = 10.0  # times the largest total of the last one to two windows


class Alert:
    """Follows the sum of all norms of a step: whatever explodes, soon rules that sum."""

    def __init__(self) -> None:
        self._recent = self._before = 0.0
        self._limit = math.inf
        self._until = LEARN

    def due(self, step: int) -> bool:
        """Whether this step is to be looked at closely."""
        return step < self._until or step % WINDOW == 0

    def notice(self, step: int, total: float) -> bool:
        """Take in the sum of a step's norms; whether that was an alarm."""
        alarm = not total <= self._limit or not math.isfinite(total)
        if alarm:
            self._until = step + WINDOW
        if math.isfinite(total):
            self._recent = max(self._recent, total)
        if step == LEARN or step % WINDOW == WINDOW - 1:
            self._limit = UNUSUAL * max(self._before, self._recent)
            self._before, self._recent = self._recent, 0.0
        return alarm
