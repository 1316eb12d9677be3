"""Dead units: those whose output was zero for every sample of a long window."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

# A unit that is active for one sample in a hundred is silent through this many with probability 4e-5.
SAMPLES = 1_000
REST = 3_000  # samples between two windows, fewer at first: a dead unit stays dead, and looking takes time


class Units:
    """The largest output so far of every unit of the rectified places, in the current window."""

    def __init__(self) -> None:
        self._largest: dict[int, Tensor] = {}
        self._samples = 0
        self._rest = SAMPLES

    @property
    def awake(self) -> bool:
        """Whether the units are to be looked at."""
        return self._samples >= 0

    def count(self, samples: int) -> None:
        """So many samples more went through."""
        self._samples += samples

    def see(self, place: int, maxima: Tensor) -> None:
        """Take in the units' maxima at a place, see `stats.unit_maxima`."""
        known = self._largest.get(place)
        same = known is not None and known.shape == maxima.shape
        self._largest[place] = torch.maximum(known, maxima) if same and known is not None else maxima

    def harvest(self) -> Mapping[int, float]:
        """Dead fraction by place once the window holds enough samples; then it begins anew."""
        if self._samples < SAMPLES:
            return {}
        dead = {place: float((largest == 0).float().mean()) for place, largest in self._largest.items()}
        self._largest = {}
        self._samples, self._rest = -self._rest, REST
        return dead
