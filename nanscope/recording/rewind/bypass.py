"""Bypass: the backward pass, the update and `zero_grad` go around the mode of those who listen.

With a mode on, `loss.backward()` and `optimizer.step()` pass through it before any hook is called, which
takes as long as all else that is done to note them, and `zero_grad()` does with each gradient. While somebody
listens they are replaced by functions that let the mode rest; whatever is called between is heard as ever.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from nanscope.recording import forgetting
from nanscope.recording.calls import is_compiling
from nanscope.recording.rewind.listener import hush_backward, hush_forgetting, rest, uncover, wake
from nanscope.recording.rewind.tape import BACKWARDS

_owned: list[list[Optimizer]] = []
_patches: list[tuple[type, str, Callable[..., Any]]] = []


def watch(optimizers: list[Optimizer]) -> None:
    """Somebody may listen; to updates of these optimizers, also of those that are added, nobody does."""
    _owned.append(optimizers)
    forgetting.watch(hush_forgetting)
    if len(_owned) == 1 and Tensor.backward is BACKWARDS[0]:
        _put(Tensor, "backward", _backward(Tensor.backward))
    for optimizer in optimizers:
        reach(optimizer)


def reach(optimizer: Optimizer) -> None:
    """See that the updates of an optimizer come by here; those of a class without torch's hooks do not."""
    owner = next(kind for kind in type(optimizer).__mro__ if "step" in kind.__dict__)
    step = owner.__dict__["step"]
    known = any(owner is kind for kind, _, _ in _patches)
    if _owned and not known and getattr(step, "hooked", False):
        _put(owner, "step", _step(step))


def unwatch(optimizers: list[Optimizer]) -> None:
    """No more; with the last one torch gets its own functions back."""
    left = [each for each in _owned if each is not optimizers]
    if len(left) == len(_owned):
        return
    _owned[:] = left
    forgetting.unwatch()
    if left:
        return
    for owner, name, ours in _patches:
        if owner.__dict__.get(name) is ours:  # else somebody has wrapped ours; it only calls through now
            setattr(owner, name, ours.__wrapped__)
    _patches.clear()


def _put(owner: type, name: str, ours: Callable[..., Any]) -> None:
    _patches.append((owner, name, ours))
    setattr(owner, name, ours)


def _backward(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def backward(self: Tensor, *args: Any, **kwargs: Any) -> None:
        if is_compiling() or not hush_backward(original, (self, *args), kwargs):
            original(self, *args, **kwargs)
            return
        try:
            original(self, *args, **kwargs)
        finally:
            uncover()

    return backward


def _step(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def step(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        if is_compiling() or not _is_owned(self) or not rest():
            return original(self, *args, **kwargs)
        try:
            return original(self, *args, **kwargs)
        finally:
            wake()

    return step


def _is_owned(optimizer: Optimizer) -> bool:
    for optimizers in _owned:
        for each in optimizers:
            if each is optimizer:
                return True
    return False
