"""Strays: parameters that an optimizer steps and that belong to no model that is recorded.

A program may optimise plain tensors. There is no call that could be recorded; their gradients and values are
looked at around each update.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim import optimizer as every_optimizer

from nanscope.plugin.sighting import Sighting
from nanscope.recording.rewind.frames import trace
from nanscope.recording.rewind.tape import Event
from nanscope.values import Location

IsKnown = Callable[[Optimizer], bool]


class Strays:
    """Looks at the updates of optimizers that no recorder follows.

    Args:
        is_known: whether a recorder follows an optimizer.

    Attributes:
        seen: the first harm of each optimizer.
    """

    def __init__(self, is_known: IsKnown) -> None:
        self._is_known = is_known
        self._steps: dict[int, int] = {}
        self._known: dict[int, tuple[Optimizer, bool]] = {}  # holds them: ids stay unique
        self._bad: set[int] = set()
        self.seen: list[Sighting] = []

    def attach(self) -> None:
        """Begin."""
        self._handles = [
            every_optimizer.register_optimizer_step_pre_hook(self._before),
            every_optimizer.register_optimizer_step_post_hook(self._after),
        ]

    def remove(self) -> None:
        """End."""
        for handle in self._handles:
            handle.remove()

    def _before(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        if not self._is_followed(optimizer):
            gradients = [p.grad for p in _parameters(optimizer) if p.grad is not None]
            self._look(optimizer, gradients, "backward", "a gradient")

    def _after(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        if not self._is_followed(optimizer):
            self._look(optimizer, list(_parameters(optimizer)), "update", "a parameter")
            self._steps[id(optimizer)] = self._steps.get(id(optimizer), 0) + 1

    def _is_followed(self, optimizer: Optimizer) -> bool:
        known = self._known.get(id(optimizer))
        if known is None or known[0] is not optimizer:
            self._known[id(optimizer)] = known = optimizer, self._is_known(optimizer)
        return known[1]

    def _look(self, optimizer: Optimizer, tensors: list[Tensor], phase: str, what: str) -> None:
        if id(optimizer) in self._bad or all_finite(tensors):
            return
        self._bad.add(id(optimizer))
        broken = next(t for t in tensors if not all_finite([t]))
        step, kinds = self._steps.get(id(optimizer), 0), kinds_of(broken)
        name = type(optimizer).__name__
        told = (
            f"{' and '.join(sorted(kinds))} in {what} of shape {list(broken.shape)} that {name} steps, "
            "which belongs to no module that was called"
        )
        self.seen.append(Sighting(name, None, told, step, phase, kinds, _where()))


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether every element of floating-point tensors is finite."""
    values = [
        t.detach() for t in tensors if t.is_floating_point() and t.layout is torch.strided and t.numel()
    ]
    if not values:
        return True
    norms = torch.stack([norm.float().cpu() for norm in torch._foreach_norm(values, torch.inf)])  # noqa: SLF001 - the only batched one
    return bool(torch.isfinite(norms).all())


def kinds_of(tensor: Tensor) -> frozenset[str]:
    """Of `nan` and `inf`, what is in it."""
    found = {"nan": torch.isnan(tensor).any(), "inf": torch.isinf(tensor).any()}
    return frozenset(kind for kind, there in found.items() if there)


def _parameters(optimizer: Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]


def _where() -> Location | None:
    """The user's line that runs now."""
    frames = Event(None, (), {}, trace(sys._getframe(3))).where  # noqa: SLF001 - there is no other way to it
    return Location(*frames[0]) if frames else None
