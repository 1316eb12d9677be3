"""From what does harm back to where it was born: the unbroken chain of non-finite values.

An infinity that the program names, such as a mask of -inf, is meant: it is no birth, and neither is what only
carries it on. The operation that turns it into NaN is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nanscope.recording.rewind.operations import VIEWS, Operation

EARLY = ("forward", "loss")


@dataclass(frozen=True, slots=True)
class Start:
    """Where a chain begins: an operation, and which operand came broken from outside, None if none did."""

    index: int
    outside: int | None = None


class Chains:
    """The operations of one step, and how non-finite values went through them.

    Args:
        made: the operations, in order.
        loss_is_finite: then the forward pass healed what was born in it, and a gradient begins anew.
    """

    def __init__(self, made: Sequence[Operation], *, loss_is_finite: bool) -> None:
        self._made, self._loss_is_finite = made, loss_is_finite
        self._known: dict[int, frozenset[Start]] = {}

    def start_of(self, ends: Iterable[int]) -> Start | None:
        """The first birth from which a chain leads to one of the operations `ends`."""
        starts = [start for end in ends for start in (self.starts(end) or {self._meant(end)})]
        return min(starts, key=lambda start: start.index, default=None)

    def birth_of(self, ends: Iterable[int]) -> Start | None:
        """The same, but what is meant is none."""
        return min((s for end in ends for s in self.starts(end)), key=lambda start: start.index, default=None)

    def starts(self, end: int) -> frozenset[Start]:
        """Every birth that the result of an operation goes back to; none if all of it is meant."""
        waiting = [end]
        while waiting:  # without recursion: a chain may be thousands of operations long
            index = waiting[-1]
            if index in self._known:
                waiting.pop()
                continue
            needed = [source for source in self._inner(index) if source not in self._known]
            if needed:
                waiting += needed
                continue
            self._known[index] = self._concluded(index)
            waiting.pop()
        return self._known[end]

    def later(self, start: Start) -> list[Operation]:
        """What went on from a birth, in order."""
        chain, found = {start.index}, []
        for operation in self._made[start.index + 1 :]:
            if operation.broken and any(source in chain for _, source in operation.bad_sources):
                chain.add(operation.index)
                found.append(operation)
        return found

    def _inner(self, index: int) -> list[int]:
        operation = self._made[index]
        sources = [source for _, source in operation.bad_sources if source is not None and source < index]
        return [source for source in sources if not self._begins_anew(operation, source)]

    def _begins_anew(self, operation: Operation, source: int) -> bool:
        return self._loss_is_finite and operation.phase == "backward" and self._made[source].phase in EARLY

    def _concluded(self, index: int) -> frozenset[Start]:
        operation = self._made[index]
        if not operation.broken:
            return frozenset()
        before = frozenset(start for source in self._inner(index) for start in self._known[source])
        if before:
            return before
        outside = [i for i, meant in operation.outside.items() if not meant]
        if outside:
            return frozenset({Start(index, outside[0])})
        return frozenset({Start(index)}) if self._is_birth(index) else frozenset()

    def _is_birth(self, index: int) -> bool:
        """Whether a broken operation broke by itself: all that it read was finite, or meant."""
        operation = self._made[index]
        around = operation.around
        if operation.name in VIEWS:  # but another library may have computed what a function or hook gives
            return (
                operation.name == "lift_fresh" and around is not None and bool(around.hook or around.custom)
            )
        if operation.bad_sources:
            anew = any(
                s is not None and s < index and self._begins_anew(operation, s)
                for _, s in operation.bad_sources
            )
            return anew or operation.counts["nan"] > 0
        return not operation.constant or bool(around and around.hook)

    def _meant(self, end: int) -> Start:
        """Where all is meant: an infinity that the loss took from outside, or what let it through to the end.

        What goes into the loss and does harm was not meant after all, and neither was a row that is masked
        throughout: then nothing was left where the last such row was summed up.
        """
        waiting, seen, entries, emptied = [end], {end}, [], []
        while waiting:
            operation = self._made[waiting.pop()]
            if operation.name == "logsumexp" and operation.phase in EARLY and operation.counts["neginf"]:
                emptied.append(operation.index)
            if operation.phase == "loss" and operation.outside and not operation.constant:
                entries.append(Start(operation.index, min(operation.outside)))
            new = [source for source in self._inner(operation.index) if source not in seen]
            seen.update(new)
            waiting += new
        last = Start(max(emptied)) if emptied else Start(self._carrier(end))
        return min(entries, key=lambda start: start.index, default=last)

    def _carrier(self, end: int) -> int:
        """The operation that let a meant infinity through to the end."""
        index = end
        while self._made[index].name in VIEWS and self._inner(index):
            index = self._inner(index)[0]
        return index
