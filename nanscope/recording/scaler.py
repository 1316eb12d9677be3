"""Tell the recorders what the gradient scalers of the training do.

A scaler skips an update by not calling the optimizer, so that no hook of an optimizer ever hears of it. The
methods of `torch.amp.GradScaler` and of its subclasses are replaced while at least one watcher is there, and
put back with the last. A subclass that is made meanwhile is seen as far as it calls the methods it inherits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch.amp import GradScaler
from torch.optim import Optimizer

METHODS = ("scale", "unscale_", "step", "update")


class Watcher(Protocol):
    """What is told about every scaler that is not disabled; what it raises reaches the training."""

    def scaled(self, scaler: GradScaler, outputs: Any) -> None:
        """`scaler.scale` returned the outputs."""

    def unscaled(self, scaler: GradScaler, optimizer: Optimizer) -> None:
        """The gradients of an optimizer were divided by the scale and looked at."""

    def stepping(self, scaler: GradScaler, optimizer: Optimizer) -> None:
        """`scaler.step` begins."""

    def stepped(self, scaler: GradScaler, optimizer: Optimizer) -> None:
        """`scaler.step` is over, whether it skipped the update or not."""

    def step_failed(self) -> None:
        """`scaler.step` raised."""

    def updated(self, scaler: GradScaler) -> None:
        """The scale was updated: what comes is another step."""


_watchers: list[Watcher] = []
_patches: list[tuple[type[GradScaler], str, Callable[..., Any]]] = []
_under_way: set[tuple[int, str]] = set()


def watch(watcher: Watcher) -> None:
    """Begin to tell `watcher`."""
    if not _watchers:
        for owner in dict.fromkeys(_family(GradScaler)):
            for name in METHODS:
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
    original = vars(owner)[name]

    @functools.wraps(original)
    def method(scaler: GradScaler, *args: Any, **kwargs: Any) -> Any:
        key = id(scaler), name
        # a subclass that calls the method of its parent is one call
        if not _watchers or key in _under_way or torch.compiler.is_compiling() or not scaler.is_enabled():
            return original(scaler, *args, **kwargs)
        _under_way.add(key)
        try:
            return _told(name, functools.partial(original, scaler), scaler, args, kwargs)
        finally:
            _under_way.discard(key)

    _patches.append((owner, name, method))
    setattr(owner, name, method)


def _told(
    name: str,
    original: Callable[..., Any],
    scaler: GradScaler,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Call the original method, with a word to the watchers about it."""
    told = tuple(_watchers)
    optimizer: Any = args[0] if args else kwargs.get("optimizer")
    if name == "step":
        for watcher in told:
            watcher.stepping(scaler, optimizer)
    try:
        result = original(*args, **kwargs)
    except BaseException:
        if name == "step":
            for watcher in told:
                watcher.step_failed()
        raise
    for watcher in told:
        _tell(watcher, name, scaler, result if name == "scale" else optimizer)
    return result


def _tell(watcher: Watcher, name: str, scaler: GradScaler, what: Any) -> None:
    match name:
        case "scale":
            watcher.scaled(scaler, what)
        case "unscale_":
            watcher.unscaled(scaler, what)
        case "step":
            watcher.stepped(scaler, what)
        case _:
            watcher.updated(scaler)
