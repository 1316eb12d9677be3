"""Weights: norms and largest absolute values of parameters, and how far an update moves them."""

from __future__ import annotations

import torch
from torch import Tensor

from nanscope.recording import stats
from nanscope.recording.places import Places
from nanscope.recording.plan import Plan
from nanscope.recording.reading import Reading, sealed, sent

COPIED_BYTES = 1 << 24  # of parameters in an update


class Weights:
    """The parameters of one model."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._plans: dict[tuple[int, ...], Plan] = {}
        self._copies: dict[int, Tensor] = {}
        self._first_copied = 0

    @torch.no_grad()
    def remember(self) -> None:
        """The parameters are about to be updated: keep some of them as they are, to see how far they move.

        Which ones changes from look to look, if they are too many for a copy that nobody notices.
        """
        self._copies, room = {}, COPIED_BYTES
        for i in range(len(self._places.parameters)):
            number = (self._first_copied + i) % len(self._places.parameters)
            parameter = self._places.parameters[number]
            room -= parameter.nbytes
            if self._copies and room < 0:
                self._first_copied = number
                return
            if parameter.numel():
                self._copies[number] = stats.strided(parameter).clone()

    @torch.no_grad()
    def reading(self) -> Reading:
        """Norms and largest absolute values of all parameters, norms of the updates that were remembered."""
        copies, self._copies = self._copies, {}
        for i, copy in copies.items():
            copy.sub_(stats.strided(self._places.parameters[i]))
        pairs = zip(self._places.weights, self._places.parameters, strict=True)
        held = [(place, stats.strided(tensor)) for place, tensor in pairs if tensor.numel()]
        peaked, tensors = tuple([place for place, _ in held]), [tensor for _, tensor in held]
        peaks = [stats.peaks(tensors)] if tensors else []
        tensors += copies.values()
        known = stats.norms(tensors) if tensors else torch.empty(0)
        places = (*peaked, *(self._places.updates[i] for i in copies))
        plan = self._plans.setdefault(places, Plan(places, peaked=peaked))
        reading = Reading(plan, known, None, peaks, [], [], 0)
        return sent(reading, []) if known.is_cuda else sealed(reading, lambda: tensors)
