"""Readings wait until the norms of many are taken in one call, their tensors side by side in arenas."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from nanscope.recording import stats
from nanscope.recording.arena import Arena, Shapes, Slot
from nanscope.recording.places import Places
from nanscope.recording.reading import Doubles, Reading, finish
from nanscope.recording.units import Units


class Waiting:
    """The readings of one model that wait.

    Attributes:
        units: which of them are alive.
        counts: whether predicted classes are counted.
    """

    def __init__(self, places: Places) -> None:
        self._places = places
        self._arenas: dict[tuple[Shapes, bool], Arena] = {}
        self._readings: list[Reading] = []
        self.units = Units()
        self.counts = False

    def add(self, reading: Reading) -> None:
        """One more."""
        self._readings.append(reading)

    def put(self, tensors: list[Tensor]) -> tuple[Slot, bool]:
        """Put tensors aside; under no_grad. See `Arena.put`."""
        shapes = tuple([tensor.shape for tensor in tensors])
        wide = tensors[-1].dtype is torch.float64 or tensors[0].dtype is torch.float64
        arena = self._arenas.get((shapes, wide))
        if arena is None:
            arena = self._arenas[shapes, wide] = Arena(shapes, torch.float64 if wide else torch.float32)
        if arena.full:
            self.measure()
        return arena.put(tensors)

    @torch.no_grad()
    def measure(self, *, wait: bool = False) -> None:
        """Take the norms that collected readings still wait for; with `wait`, also those still on a GPU."""
        pending = [reading for reading in self._readings if wait or reading.ready]
        taken = set(map(id, pending))  # asked once: a copy may arrive between two questions
        begun = [reading for reading in pending if reading.numbers is None]  # an interrupt may have left some
        for _, alike in groupby(begun, key=lambda r: (id(r.plan), r.slot and id(r.slot.arena), r.logits_at)):
            group = list(alike)
            norms = self._norms(group)
            finite = bool(np.isfinite(norms).all())
            for reading, row in zip(group, norms, strict=True):
                finish(reading, row, finite=finite)
        if pending:
            pending[-1].dead = self.units.harvest()
        self._readings = [reading for reading in self._readings if id(reading) not in taken]
        for arena in self._arenas.values():
            arena.used = 0

    def _norms(self, readings: Sequence[Reading]) -> Doubles:
        """Norms of the tensors of readings in consecutive rows of one arena, shape (readings, tensors)."""
        slot = readings[0].slot
        if slot is None:
            return np.empty((len(readings), 0))
        arena, plan, last = slot.arena, readings[0].plan, slot.row + len(readings)
        places = plan.places[plan.taken - len(arena.shapes) :]
        if self.units.awake:
            for i, place in enumerate(places):
                if place in self._places.rectified:
                    largest = arena.part(i, slot.row, last).amax(0).view(arena.shapes[i])
                    self.units.see(place, stats.unit_maxima(largest))
        at = readings[0].logits_at
        if at is not None:
            logits = arena.part(at, slot.row, last)
            self._predict(readings, logits.view(len(readings), -1, arena.shapes[at][-1]))
        return arena.norms(slot.row, last)

    def _predict(self, readings: Sequence[Reading], logits: Tensor) -> None:
        predicted = stats.logit_stats(logits, count=self.counts).double().numpy()
        for reading, row in zip(readings, predicted, strict=True):
            reading.predicted = row
