"""Dead units: those whose output was zero for every sample of a long window."""

from __future__ import annotations

import torch
from torch import Tensor

# A unit that is active for one sample in a hundred is silent through this many with probability 4e-5.
SAMPLES = 1_000


class Units:
    """The largest output so far of every unit of the rectified places, in the current window."""

    def __init__(self) -> None:
        self._largest: dict[int, Tensor] = {}
        self._samples = 0

    def see(self, places: list[int], maxima: list[Tensor], samples: int) -> None:
        """Take in the units' maxima of one backward pass, see `stats.unit_maxima`."""
        self._samples += samples
        known = [self._largest.get(place) for place in places]
        if all(k is not None and k.shape == m.shape for k, m in zip(known, maxima, strict=True)):
            if known:
                torch._foreach_maximum_([k for k in known if k is not None], maxima)
        else:
            self._largest.update(zip(places, (m.clone() for m in maxima), strict=True))

    def harvest(self) -> dict[int, Tensor]:
        """Dead fraction by place, shape (1,), once the window holds enough samples; then it begins anew."""
        if self._samples < SAMPLES:
            return {}
        dead = {place: (largest == 0).float().mean().reshape(1) for place, largest in self._largest.items()}
        self._largest = {}
        self._samples = 0
        return dead
