"""Tell the recorders when a backward pass begins and ends, and from which tensors.

`Tensor.backward` looks `torch.autograd.backward` up at every call, so replacing that one function sees every
ordinary training loop. It is replaced while at least one watcher is there, and put back with the last.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from nanscope.recording.quiet import quietly


class Watcher(Protocol):
    """What is told about a backward pass; `roots` are the tensors that it starts from."""

    def before_backward(self, roots: tuple[Tensor, ...]) -> None:
        """The pass is about to run."""

    def after_backward(self, roots: tuple[Tensor, ...]) -> None:
        """The pass ran to its end."""

    def backward_failed(self) -> None:
        """The pass raised."""


_watchers: list[Watcher] = []
_patches: list[Callable[..., Any]] = []
depth = 0
"""Backward passes that run now, of those that somebody is told of."""


def watch(watcher: Watcher) -> None:
    """Begin to tell `watcher`."""
    if not _watchers:
        _install(torch.autograd.backward)
    _watchers.append(watcher)


def unwatch(watcher: Watcher) -> None:
    """Stop telling `watcher`; with the last one torch gets its own function back."""
    if watcher not in _watchers:
        return
    _watchers.remove(watcher)
    if not _watchers and torch.autograd.backward is _patches[-1]:
        # someone who wrapped ours meanwhile keeps it; with no watcher it only calls through
        torch.autograd.backward = _patches.pop().__wrapped__  # type: ignore[attr-defined]


def _install(original: Callable[..., Any]) -> None:
    @functools.wraps(original)
    def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
        if depth or not _watchers:  # a checkpoint runs a backward inside the backward: part of the same pass
            return original(tensors, *args, **kwargs)
        return _watched(original, tensors, *args, **kwargs)

    _patches.append(backward)
    torch.autograd.backward = backward


def _watched(original: Callable[..., Any], tensors: Any, *args: Any, **kwargs: Any) -> Any:
    global depth  # noqa: PLW0603 - the depth belongs to the process, as the patched function does
    told = tuple(_watchers)
    roots = (tensors,) if isinstance(tensors, Tensor) else tuple(t for t in tensors if isinstance(t, Tensor))
    for watcher in told:
        quietly(watcher.before_backward, roots)
    depth += 1
    try:
        result = original(tensors, *args, **kwargs)
    except BaseException:
        for watcher in told:
            watcher.backward_failed()
        raise
    finally:
        depth -= 1
    for watcher in told:
        quietly(watcher.after_backward, roots)
    return result
