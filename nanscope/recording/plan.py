"""A plan: what the numbers of a measured backward pass mean. Passes of the same course share one."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nanscope.recording.factors import SMALL_ELEMENTS, Factored
from nanscope.recording.places import Places

Derived = tuple[int, int, int | None]
Numbers = tuple[int, ...]
Course = tuple[Numbers, Numbers, tuple[Factored, ...], tuple[torch.layout | None, ...], Numbers]
"""What decides a plan: places measured early, places kept, gradients that follow from factors, layouts of the
parameters' gradients (None without one), places with a largest value."""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What the numbers of a reading mean: norms, then largest absolute values.

    Attributes:
        places: one norm each; then come norms of the tensors in `entering`, which have no place.
        direct: which parameters' gradients are measured as soon as they are there, by number.
        products: of these, those whose norm may be had from a linear call: which one of `direct` it is, the
            kept tensors that are the gradient of its output and its input.
        kept: how many tensors come next in `places`: those that the probes kept.
        small: which parameters' gradients are kept too, being small.
        entering: which linear calls' inputs are measured besides, by number.
        derived: places whose norm is the product of two of these norms, or one of them, by index.
        peaked: one largest absolute value each.
    """

    places: tuple[int, ...] = ()
    direct: tuple[int, ...] = ()
    products: tuple[tuple[int, int, int], ...] = ()
    kept: int = 0
    small: tuple[int, ...] = ()
    entering: tuple[int, ...] = ()
    derived: tuple[Derived, ...] = ()
    peaked: tuple[int, ...] = ()

    @property
    def taken(self) -> int:
        """How many norms are taken."""
        return len(self.places) + len(self.entering)

    @property
    def order(self) -> tuple[int, ...]:
        """The places of all norms: first those taken, then the derived ones."""
        return (*self.places, *(place for place, _, _ in self.derived))


def planned(places: Places, course: Course) -> Plan:
    """Sort out which gradients are measured, and which follow from the factors of a linear call."""
    early, kept, factored, layouts, peaked = course
    arrived = {place: i for i, place in enumerate(kept)}
    made_by = {call[2]: call for call in factored if call[1] in arrived and call[4]}
    product = {call[2]: call for call in factored if call[1] in arrived and not call[4]}
    measured = [i for i, layout in enumerate(layouts) if layout and id(places.parameters[i]) not in made_by]
    small = tuple([i for i in measured if _is_small(places, i, layouts[i])])
    direct = tuple([i for i in measured if i not in small])
    made = [(n, product.get(id(places.parameters[i]))) for n, i in enumerate(direct)]
    products = tuple([(n, arrived[c[1]], c[3]) for n, c in made if c is not None and c[3] is not None])
    first = len(early) + len(direct)
    derived: list[Derived] = []
    entering: list[int] = []
    for i, parameter in enumerate(places.parameters):
        if layouts[i] is None or id(parameter) not in made_by:
            continue
        number, place, _, where, _ = made_by[id(parameter)]
        other = None if where is None else first + where
        if where == -1:
            other = first + len(kept) + len(small) + len(entering)
            entering.append(number)
        derived.append((places.grads[i], first + arrived[place], other))
    names = (*early, *(places.grads[i] for i in direct), *kept, *(places.grads[i] for i in small))
    return Plan(names, direct, products, len(kept), small, tuple(entering), tuple(derived), peaked)


def _is_small(places: Places, i: int, layout: torch.layout | None) -> bool:
    return layout is torch.strided and places.parameters[i].numel() <= SMALL_ELEMENTS
