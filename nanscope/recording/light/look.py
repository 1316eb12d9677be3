"""Look: which gradients a backward pass has left, and whether they are finite, in one batched call."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nanscope.recording import stats
from nanscope.recording.finite import is_finite
from nanscope.recording.stats import Exact

NONE = -1.0  # in place of the norm of a gradient that is not there


class Look:
    """At the gradients of the parameters of one model."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._parameters = parameters
        self._before: list[tuple[Tensor | None, int]] = []

    @property
    def is_empty(self) -> bool:
        """Whether no parameter has a gradient."""
        return all(parameter.grad is None for parameter in self._parameters)

    def begin(self) -> None:
        """A backward pass is about to run."""
        found = [parameter.grad for parameter in self._parameters]
        self._before = [(None, 0) if g is None else (g, g._version) for g in found]

    def is_reached(self) -> bool:
        """Whether that pass has written a gradient."""
        before, self._before = self._before, []  # to hold them would keep their memory
        for parameter, (was, version) in zip(self._parameters, before, strict=False):
            now = parameter.grad
            if now is not None and (now is not was or now._version != version):
                return True
        return False

    def norms(self) -> list[float]:
        """The norm of each parameter's gradient in the gradient's own precision, `NONE` where none is."""
        gradients = [parameter.grad for parameter in self._parameters]
        there = [stats.strided(g.detach()) for g in gradients if g is not None]
        found = iter(_numbers(torch._foreach_norm(there)) if there else ())
        return [NONE if g is None else next(found) for g in gradients]


def all_finite(norms: Sequence[float], tensors: Sequence[Tensor | None]) -> bool:
    """Whether all elements of all tensors are, of which the norms are given: a norm alone may overflow."""
    if math.isfinite(sum(norms)):
        return True
    odd = [t for t, norm in zip(tensors, norms, strict=True) if t is not None and not math.isfinite(norm)]
    return all(map(is_finite, odd))


def exact(tensors: Sequence[Tensor | None]) -> list[Exact | None]:
    """Each tensor looked at closely."""
    return [None if t is None else stats.examine(stats.strided(t.detach())) for t in tensors]


def loss_of(roots: Sequence[Tensor]) -> float | None:
    """The sum over the tensors that a backward pass starts from; None if there are none with real numbers."""
    real = [root.detach() for root in roots if root.is_floating_point()]
    if not real:
        return None
    total = sum(root.item() if root.numel() == 1 else _total(root) for root in real)
    return float(total)


def _total(root: Tensor) -> float:
    """A sum that overflows only if an element has."""
    total = root.sum().item()
    return total if math.isfinite(total) else root.sum(dtype=torch.float64).item()


def _numbers(norms: Sequence[Tensor]) -> list[float]:
    """On a device all of them are waited for at once."""
    if not norms[0].is_cuda:
        return [norm.item() for norm in norms]
    return [float(number) for number in torch.stack([norm.float() for norm in norms]).tolist()]
