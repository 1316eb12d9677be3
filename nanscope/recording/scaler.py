"""Tell the recorders what the gradient scalers of the training do.

A scaler skips an update by not calling the optimizer, so that no hook of an optimizer ever hears of it. The
methods of `torch.amp.GradScaler` and of its subclasses are replaced while at least one watcher is there, and
put back with the last. A subclass that is made meanwhile is seen as far as it calls the methods it inherits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch.amp import GradScaler
from torch.optim import Optimizer

Method = Callable[..., Any]


class Watcher(Protocol):
    """What is told about every scaler that is not disabled; what it raises reaches the training."""

    def scaled(self, scaler: GradScaler, outputs: Any) -> None:
        """`scaler.scale` returned the outputs."""

    def unscaled(self, scaler: GradScaler, optimizer: Optimizer) -> None:
        """The gradients of an optimizer were divided by the scale and looked at."""

    def stepping(self) -> None:
        """`scaler.step` begins."""

    def stepped(self, scaler: GradScaler, optimizer: Optimizer) -> None:
        """`scaler.step` is over, whether it skipped the update or not."""

    def step_failed(self) -> None:
        """`scaler.step` raised."""

    def updated(self, scaler: GradScaler) -> None:
        """The scale was updated: what comes is another step."""


_watchers: list[Watcher] = []
_patches: list[tuple[type[GradScaler], str, Method]] = []
_is_under_way = False


def watch(watcher: Watcher) -> None:
    """Begin to tell `watcher`."""
    if not _watchers:
        for owner in dict.fromkeys(_family(GradScaler)):
            for name in _TELLERS:
                if name in vars(owner):
                    _install(owner, name)
    _watchers.append(watcher)


def unwatch(watcher: Watcher) -> None:
    """Stop telling; with the last watcher torch and its subclasses get their own methods back."""
    if watcher not in _watchers:
        return
    _watchers.remove(watcher)
    while _patches and not _watchers:
        owner, name, method = _patches.pop()
        if vars(owner).get(name) is method:
            # someone who wrapped ours meanwhile keeps it; with no watcher it only calls through
            setattr(owner, name, method.__wrapped__)


def _family(owner: type[GradScaler]) -> Iterator[type[GradScaler]]:
    yield owner
    for heir in owner.__subclasses__():
        yield from _family(heir)


def _install(owner: type[GradScaler], name: str) -> None:
    original, tell = vars(owner)[name], _TELLERS[name]

    @functools.wraps(original)
    def method(scaler: GradScaler, *args: Any, **kwargs: Any) -> Any:
        # what a method calls in turn (its parent's, `unscale_` within `step`) is a part of it
        if _is_under_way or not _watchers or not scaler.is_enabled() or torch.compiler.is_compiling():
            return original(scaler, *args, **kwargs)
        return tell(original, scaler, *args, **kwargs)

    _patches.append((owner, name, method))
    setattr(owner, name, method)


def _scale(original: Method, scaler: GradScaler, *args: Any, **kwargs: Any) -> Any:
    outputs = _run(original, scaler, *args, **kwargs)
    for watcher in tuple(_watchers):
        watcher.scaled(scaler, outputs)
    return outputs


def _unscale(original: Method, scaler: GradScaler, optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
    _run(original, scaler, optimizer, *args, **kwargs)
    for watcher in tuple(_watchers):
        watcher.unscaled(scaler, optimizer)


def _step(original: Method, scaler: GradScaler, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
    told = tuple(_watchers)
    for watcher in told:
        watcher.stepping()
    try:
        result = _run(original, scaler, optimizer, *args, **kwargs)
    except BaseException:
        for watcher in told:
            watcher.step_failed()
        raise
    for watcher in told:
        watcher.stepped(scaler, optimizer)
    return result


def _update(original: Method, scaler: GradScaler, *args: Any, **kwargs: Any) -> None:
    _run(original, scaler, *args, **kwargs)
    for watcher in tuple(_watchers):
        watcher.updated(scaler)


def _run(original: Method, *args: Any, **kwargs: Any) -> Any:
    global _is_under_way  # noqa: PLW0603 - it belongs to the process, as the patched methods do
    _is_under_way = True
    try:
        return original(*args, **kwargs)
    finally:
        _is_under_way = False


_TELLERS: Mapping[str, Method] = {"scale": _scale, "unscale_": _unscale, "step": _step, "update": _update}
