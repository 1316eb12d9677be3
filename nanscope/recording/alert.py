"""Is the run near trouble? Then the recorder looks closely at every step."""

from __future__ import annotations

import numpy as np

from nanscope.run import Floats, is_nonfinite

WINDOW = 100  # steps between looks in calm weather, and of close looks after an alarm
LEARN = 10  # steps at the start that are all looked at: what is usual is not known yet
UNUSUAL = 10.0  # times the largest norm of the last windows


class Alert:
    """Compares each site's norm with the largest that it had in the last one to two windows."""

    def __init__(self) -> None:
        self._recent: Floats | None = None
        self._before: Floats | None = None
        self._limit: Floats | None = None
        self._until = LEARN

    def due(self, step: int) -> bool:
        """Whether this step is to be looked at closely."""
        return step < self._until or step % WINDOW == 0

    def notice(self, step: int, l2: Floats) -> None:
        """Take in the norms of a finished step, shape (sites,); NaN where there is none."""
        if self._recent is None:
            self._recent = l2.copy()
        with np.errstate(invalid="ignore"):
            unusual = self._limit is not None and bool((l2 > self._limit).any())
        if unusual or not np.isfinite(np.nansum(l2)) or is_nonfinite(l2).any():
            self._until = step + WINDOW
        np.fmax(self._recent, l2, out=self._recent, where=np.isfinite(l2))
        if step == LEARN or step % WINDOW == WINDOW - 1:
            before = self._recent if self._before is None else self._before
            self._limit = np.fmax(before, self._recent) * np.float32(UNUSUAL)
            self._before, self._recent = self._recent, l2.copy()
