"""A plan: what the numbers of a measured backward pass mean. Passes of the same course share one."""

from __future__ import annotations

from dataclasses import dataclass

from nanscope.recording.places import Places

Derived = tuple[int, int, int | None]
Numbers = tuple[int, ...]
Call = tuple[int, int, int, int | None]
"""A linear call: place of the arriving gradient, ids of weight and bias, which kept tensor went in if one."""

Course = tuple[Numbers, Numbers, tuple[Call, ...], frozenset[int], tuple[bool, ...], Numbers]
"""What decides a plan: places measured early, places kept, linear calls, parameters used once, which
parameters have a gradient, places with a largest value."""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What the numbers of a reading mean: norms, then largest absolute values.

    Attributes:
        places: one norm each; then come `extras` norms of tensors that have no place.
        derived: places whose norm is the product of two of these norms, or one of them, by index.
        peaked: one largest absolute value each.
        direct: which parameters' gradients are to be measured, by number.
        entering: which linear calls' inputs are the extras, by number.
    """

    places: tuple[int, ...] = ()
    extras: int = 0
    derived: tuple[Derived, ...] = ()
    peaked: tuple[int, ...] = ()
    direct: tuple[int, ...] = ()
    entering: tuple[int, ...] = ()

    @property
    def taken(self) -> int:
        """How many norms are taken."""
        return len(self.places) + self.extras

    @property
    def order(self) -> tuple[int, ...]:
        """The places of all norms: first those taken, then the derived ones."""
        return (*self.places, *(place for place, _, _ in self.derived))


def planned(places: Places, course: Course) -> Plan:
    """Sort out which gradients are measured, and which follow from the factors of a linear call."""
    early, kept, calls, outer, has_gradient, peaked = course
    arrived = {place: i for i, place in enumerate(kept)}
    made_by = {
        parameter: (number, parameter == call[1])
        for number, call in enumerate(calls)
        for parameter in call[1:3]
        if parameter in outer and call[0] in arrived
    }
    present = [i for i, has in enumerate(has_gradient) if has]
    direct = tuple(i for i in present if id(places.parameters[i]) not in made_by)
    first = len(early) + len(direct)
    derived: list[Derived] = []
    entering: list[int] = []
    for i in present:
        if i in direct:
            continue
        number, is_weight = made_by[id(places.parameters[i])]
        place, _, _, where = calls[number]
        other = None
        if is_weight:
            other = first + len(kept) + len(entering) if where is None else first + where
            entering += [number] if where is None else []
        derived.append((places.grads[i], first + arrived[place], other))
    all_places = (*early, *(places.grads[i] for i in direct), *kept)
    return Plan(all_places, len(entering), tuple(derived), peaked, direct, tuple(entering))
