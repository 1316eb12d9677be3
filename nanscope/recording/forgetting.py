"""Tell who listens that gradients are forgotten, as one call: `zero_grad` reads and writes every one of them.

There is no hook for it. Torch's own two functions are replaced while somebody wants to be told; a class that
has its own is heard function by function.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

Around = Callable[[Callable[..., None], tuple[Any, ...], dict[str, Any]], Callable[[], None]]
"""Told before the function runs, of it and of its arguments; what it gives is called afterwards."""

_patches: list[tuple[type, Callable[..., None]]] = []
_watchers: list[Around] = []


def watch(around: Around) -> None:
    """Begin to tell; the one who came last is told."""
    _watchers.append(around)
    if len(_watchers) == 1:
        for owner in (Optimizer, nn.Module):
            _install(owner, owner.zero_grad)


def unwatch() -> None:
    """Stop; with the last one torch gets its own functions back."""
    _watchers.pop()
    if _watchers:
        return
    for owner, ours in _patches:
        if owner.zero_grad is ours:  # type: ignore[attr-defined]
            owner.zero_grad = ours.__wrapped__  # type: ignore[attr-defined]
    _patches.clear()


def forgotten(owner: Optimizer | nn.Module) -> Sequence[Tensor]:
    """The parameters whose gradients are forgotten."""
    if isinstance(owner, nn.Module):
        return list(owner.parameters())
    return [parameter for group in owner.param_groups for parameter in group["params"]]


def _install(owner: type, original: Callable[..., None]) -> None:
    @functools.wraps(original)
    def zero_grad(self: Any, *args: Any, **kwargs: Any) -> None:
        if not _watchers:  # somebody has wrapped ours and keeps it
            original(self, *args, **kwargs)
            return
        over = _watchers[-1](original, (self, *args), kwargs)
        try:
            original(self, *args, **kwargs)
        finally:
            over()

    _patches.append((owner, zero_grad))
    owner.zero_grad = zero_grad  # type: ignore[attr-defined]
