"""Tell the probes when a module is called and what it returned.

Every call of a module goes through `nn.Module.__call__`. Replacing that one function while somebody watches
costs a lookup per call; a forward hook makes torch take its slow path, is copied with the model (`deepcopy`,
`torch.save`), and stays behind if something goes wrong. A compiled model is traced through it as if it were
not there: what happens inside of it is not told.

Somebody else may replace it too, before us or over ours, and put back what he found, at any time.

One more may be told of every outermost call: of modules that are called by no other module, known or not.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import nn

from nanscope.recording.quiet import heard_by_modes, quiet, quietly

Enter = Callable[[nn.Module, tuple[Any, ...], Mapping[str, Any]], None]
Leave = Callable[[tuple[Any, ...], Any], None]
Meet = Callable[[nn.Module, tuple[Any, ...], Mapping[str, Any]], Leave | None]
"""Told of an outermost call before anybody else is; what it gives is called when the call has returned."""
Around = Callable[[nn.Module, tuple[Any, ...], Mapping[str, Any]], Callable[[Any], None] | None]
"""Told of an outermost call last, right before it runs; what it gives is called first with what the call has
returned, or with `RAISED`."""
RAISED = object()


@dataclass(frozen=True, slots=True, eq=False)
class Watcher:
    """Called before and after each call of one module; neither may raise."""

    enter: Enter | None = None
    leave: Leave | None = None


Hook = TypeVar("Hook", bound=Callable[..., None])

# the compiler knows its answer while it traces; that of `is_compiling` costs two calls
is_compiling = torch.compiler.is_dynamo_compiling

WRAPPER = "OptimizedModule"  # by name: importing it would import the compiler

# by id: a class of the user's may compare its modules, and then they have no hash
_entering: dict[int, Enter] = {}
_leaving: dict[int, Leave] = {}
_watchers: dict[int, list[Watcher]] = {}
_patches: list[Callable[..., Any]] = []
_wrapped: set[int] = set()  # of those that are watched, which were called in the compiler's wrapper
_meet: Meet | None = None
_around: list[Around] = []  # one at most


class _Depth(threading.local):
    """Whether this thread is inside an outermost call; followed only while somebody meets them."""

    inside = False


_depth = _Depth()


def watch(watchers: Mapping[int, Watcher]) -> None:
    """Begin to tell; keys are ids of modules that the caller keeps alive, and that others may watch too."""
    _reach()
    for key, watcher in watchers.items():
        _watchers.setdefault(key, []).append(watcher)
        _tell(key)


def was_wrapped(model: nn.Module) -> bool:
    """Whether a watched module was called in the wrapper that `torch.compile(module)` returns."""
    return id(model) in _wrapped


def unwatch(watchers: Mapping[int, Watcher]) -> None:
    """Stop telling; with the last watcher torch gets its own function back."""
    for key, watcher in watchers.items():
        if watcher in _watchers.get(key, ()):
            _watchers[key].remove(watcher)
            _tell(key)
    _withdraw()


def meet(stranger: Meet | None, around: Around | None = None) -> Meet | None:
    """Tell `stranger` of every outermost call from now on, None for nobody; gives who was told before.

    Args:
        around: told too, as long as anybody is.
    """
    global _meet
    if stranger is not None:
        _reach()
    before, _meet = _meet, stranger
    _around[:] = [] if stranger is None else [around] if around else _around
    _withdraw()
    return before


def _reach() -> None:
    if not _patches or not (nn.Module.__call__ is _patches[-1] or _is_reached()):
        _install(nn.Module.__call__)


def _withdraw() -> None:
    if not _watchers and _meet is None and _patches and nn.Module.__call__ is _patches[-1]:
        # someone who wrapped ours meanwhile keeps it; with no watcher it only calls through
        nn.Module.__call__ = _patches.pop().__wrapped__  # type: ignore[attr-defined, method-assign]


def _tell(key: int) -> None:
    """Renew what is called for a module: the lookup has to be one, and of one callable."""
    told = _watchers[key]
    _put(_entering, key, [watcher.enter for watcher in told if watcher.enter])
    _put(_leaving, key, [watcher.leave for watcher in told if watcher.leave])
    if not told:
        del _watchers[key]
        _wrapped.discard(key)


def _put(table: dict[int, Hook], key: int, hooks: list[Hook]) -> None:
    table.pop(key, None)
    if hooks:
        table[key] = hooks[0] if len(hooks) == 1 else cast("Hook", _all(hooks))


def _all(hooks: Sequence[Callable[..., None]]) -> Callable[..., None]:
    def each(*args: Any) -> None:
        for hook in hooks:
            hook(*args)

    return each


def _is_reached() -> bool:
    """Whether a call still comes by ours: installed twice, it would tell of each call twice."""
    came: list[bool] = []
    module = nn.Identity()
    _entering[id(module)] = lambda *_: came.append(True)
    with suppress(Exception):  # of a function that is not ours
        module(torch.empty(0))
    del _entering[id(module)]
    return bool(came)


def _install(original: Callable[..., Any]) -> None:
    @functools.wraps(original)
    def __call__(self: nn.Module, *args: Any, **kwargs: Any) -> Any:  # noqa: N807 - it takes that one's place
        if is_compiling() or torch.compiler._is_compiling_flag:
            return original(self, *args, **kwargs)
        # torch.compile's wrapper stands for the module in it, whose own call is part of what was compiled
        key = id(self) if self.__class__.__name__ != WRAPPER else _unwrap(self)
        if _meet is not None and not _depth.inside:
            return _outermost(original, key, self, args, kwargs)
        enter = _entering.get(key)
        if enter is not None:
            if heard_by_modes():
                quietly(enter, self, args, kwargs)
            else:  # as `quietly` does, without the call
                enter(self, args, kwargs)
        output = original(self, *args, **kwargs)
        leave = _leaving.get(key)
        if leave is not None:
            if heard_by_modes():
                quietly(leave, args, output)
            else:
                leave(args, output)
        return output

    _patches.append(__call__)
    nn.Module.__call__ = __call__  # type: ignore[method-assign]


def _outermost(
    original: Callable[..., Any], key: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """The same for a call that somebody is told of who may begin to watch the module because of it."""
    _depth.inside = True
    try:
        met = None if _meet is None else quiet(_meet, module, args, kwargs)
        enter = _entering.get(key)
        if enter is not None:
            quietly(enter, module, args, kwargs)
        around = _around[0](module, args, kwargs) if _around else None
        output = RAISED
        try:
            output = original(module, *args, **kwargs)
        finally:
            if around is not None:
                around(output)
        leave = _leaving.get(key)
        if leave is not None:
            quietly(leave, args, output)
        if met is not None:
            quietly(met, args, output)
        return output
    finally:
        _depth.inside = False


def _unwrap(wrapper: nn.Module) -> int:
    key = id(getattr(wrapper, "_orig_mod", wrapper))  # a class of the user's may have that name
    if key in _watchers:
        _wrapped.add(key)
    return key
