"""Dead units: those whose output was zero for every sample of a long window."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from nanscope.recording import stats
from nanscope.recording.probes import Sighting

# A unit that is active for one sample in a hundred is silent through this many with probability 4e-5.
SAMPLES = 1_000


class Units:
    """Remembers which units of the rectified places have been active in the current window."""

    def __init__(self, places: frozenset[int]) -> None:
        self._places = places
        self._live: dict[int, Tensor] = {}
        self._samples = 0

    def see(self, seen: Iterable[Sighting], samples: int) -> None:
        """Take in the outputs of one backward pass."""
        if not self._places:
            return
        self._samples += samples
        for sighting in seen:
            if sighting.place in self._places and sighting.usable:
                self._merge(sighting)

    def _merge(self, sighting: Sighting) -> None:
        live = sighting.live
        if live is None and sighting.tensor is not None:
            live = stats.live_units(sighting.tensor)
        known = self._live.get(sighting.place)
        if live is None:
            return
        if known is None or known.shape != live.shape:
            self._live[sighting.place] = live
        else:
            known.logical_or_(live)

    def harvest(self) -> dict[int, Tensor]:
        """Dead fraction by place, shape (1,), once the window holds enough samples; then it begins anew."""
        if self._samples < SAMPLES:
            return {}
        dead = {place: 1 - live.float().mean().reshape(1) for place, live in self._live.items()}
        self._live = {}
        self._samples = 0
        return dead
