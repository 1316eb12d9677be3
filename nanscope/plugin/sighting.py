"""A sighting: something that was not finite, as the watch hands it on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nanscope.values import Location


@dataclass(frozen=True, slots=True)
class Sighting:
    """Of one training.

    Attributes:
        name: class of the model, or of the optimizer where its parameters belong to no model.
        path: the run file, None if there is none.
        told: what was seen, one sentence, where the run file says nothing of it.
        step: when, counted within the phase of the test.
        phase: a word of `Phase`.
        kinds: of `nan` and `inf`, what was seen.
        location: of the user's line that ran when it was seen.
    """

    name: str
    path: Path | None
    told: str = ""
    step: int = 0
    phase: str = ""
    kinds: frozenset[str] = frozenset()
    location: Location | None = None
