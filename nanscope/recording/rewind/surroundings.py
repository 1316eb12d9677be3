"""Where an operation happens: phase, module, function that the user called, lines of the user's code."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import Function, FunctionCtx
from torch.autograd.graph import _engine_run_backward
from torch.nn.modules import module as every_module
from torch.optim import Optimizer
from torch.optim import optimizer as every_optimizer
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves

from nanscope.recording import backward
from nanscope.recording.rewind import frames, rerun, tape
from nanscope.recording.rewind.frames import Frame

MOST_FRAMES = 6
_RERUN = str(Path(rerun.__file__))
_ENGINE = _engine_run_backward.__code__

Given = Callable[[], "Sequence[Frame] | None"]
"""Frames of the user's from which the present function was called when it was written down."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is under way.

    Attributes:
    phase: forward, loss, backward or update.
    module: name of the innermost module under way, "" outside of all.
    call: the function that the user, or a module, called; None if there is none.
    frames: the user's, innermost first.
    custom: name of the user's `autograd.Function` that is under way, "" if none is.
    hook: name of the user's gradient hook that is under way, "" if none is.
    """

    phase: str
    module: str
    call: str | None
    frames: tuple[Frame, ...]
    custom: str
    hook: str
    optimizer: str


class _Calls(TorchFunctionMode):
    """Knows which torch function is under way."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str | None] = []
        self.on_gradient: Callable[[Sequence[Tensor]], None] = lambda _: None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if tape.is_backward(func):  # what is called within belongs to the pass
            return func(*args, **(kwargs or {}))
        if func is torch.autograd.grad:
            self.on_gradient([root for root in tree_leaves(args[:1]) if isinstance(root, Tensor)])
        self.names.append(_name_of(func))
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.names.pop()


class Scene:
    """What is under way while a step is executed under watch.

    Args:
        given: where the function under way was called from, if it is executed again from a tape.
    """

    def __init__(self, model: nn.Module, given: Given) -> None:
        self._names = {id(module): name for name, module in model.named_modules()}
        self._given = given
        self._calls = _Calls()
        self._modules: list[str | None] = []
        self._optimizers: list[str] = []
        self._backward_over = False
        self.on_backward: Callable[[Sequence[Tensor]], None] = lambda _: None
        self.on_gradient: Callable[[Sequence[Tensor]], None] = lambda _: None
        self.on_given: Callable[[Tensor], None] = lambda _: None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look; everything is taken off again."""
        handles = [
            every_module.register_module_forward_pre_hook(self._enter),
            every_module.register_module_forward_hook(self._leave, always_call=True),
            every_optimizer.register_optimizer_step_pre_hook(self._begin_update),
            every_optimizer.register_optimizer_step_post_hook(self._end_update),
        ]
        self._calls.on_gradient = self.on_gradient
        backward.watch(self)
        profiler = sys.getprofile()
        sys.setprofile(self._returned)
        try:
            with self._calls:
                yield
        finally:
            sys.setprofile(profiler)
            backward.unwatch(self)
            for handle in handles:
                handle.remove()

    def before_backward(self, roots: tuple[Tensor, ...]) -> None:
        """See `nanscope.recording.backward.Watcher`."""
        self.on_backward(roots)

    def after_backward(self, _roots: tuple[Tensor, ...]) -> None:
        """See `nanscope.recording.backward.Watcher`."""
        self._backward_over = True

    def backward_failed(self) -> None:
        """See `nanscope.recording.backward.Watcher`."""

    def phase(self, *, differentiable: bool) -> str:
        """Of the step, now.

        Args:
            differentiable: whether a gradient may be asked of what is computed; then it is no update, even
                after a backward pass or in the closure of an optimizer.
        """
        if _is_backward():
            return "backward"
        if self._modules and self._modules[-1] is not None:
            return "forward"
        # the closure of an optimizer runs with gradients, all else of its step without
        steps = bool(self._optimizers) and not torch.is_grad_enabled()
        return "update" if not differentiable and (steps or self._backward_over) else "loss"

    def look(self, phase: str) -> Surroundings:
        """What is under way now, in a phase of the step."""
        frames, python = _frames(sys._getframe(1), within=phase == "backward")
        custom = next((name for frame in python if (name := _custom(frame))), "")
        hook = python[-1].f_code.co_name if phase == "backward" and python and not custom else ""
        if phase == "backward":
            return Surroundings(phase, self._module, None, frames, custom, hook, "")
        given = tuple(self._given() or ())
        return Surroundings(
            phase,
            self._module,
            next((name for name in reversed(self._calls.names) if name), None),
            (*frames, *given)[:MOST_FRAMES],
            custom,
            "",
            self._optimizers[-1] if self._optimizers else "",
        )

    @property
    def is_updating(self) -> bool:
        """Whether an optimizer is at its step."""
        return bool(self._optimizers)

    @property
    def _module(self) -> str:
        return (self._modules[-1] or "") if self._modules else ""

    def _returned(self, frame: FrameType, event: str, result: Any) -> None:
        """See `sys.setprofile`: what the user's own code gives to autograd may be no operation's result."""
        if event != "return" or result is None or not frames.is_users(frame.f_code):
            return
        if torch._C._current_autograd_node() is not None or _custom(frame):
            given = result if type(result) is tuple else (result,)
            with _disable_current_modes():
                for tensor in (each for each in given if isinstance(each, Tensor)):
                    self.on_given(tensor)

    def _enter(self, module: nn.Module, _args: Any) -> None:
        outer = self._modules[-1] if self._modules else None  # none: a criterion is no part of the model
        name = self._names.get(id(module), outer)
        self._modules.append(name)
        if name is not None and not _is_backward():
            self._backward_over = False

    def _leave(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        if self._modules:
            self._modules.pop()

    def _begin_update(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        self._optimizers.append(type(optimizer).__name__)

    def _end_update(self, _optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        if self._optimizers:
            self._optimizers.pop()


def _name_of(func: Any) -> str | None:
    """As the user writes it; None for what is no call of his, such as reading an attribute."""
    if getattr(func, "__name__", "") in ("__get__", "__set__") or func is torch._C._set_grad_enabled:
        return None
    name = resolve_name(func) or getattr(func, "__name__", None)
    return (
        None
        if name is None
        else str(name)
        .replace("torch._tensor.", "torch.")
        .replace("torch._C._nn.", "torch.nn.functional.")
        .replace("TensorBase", "Tensor")
    )


def _is_backward() -> bool:
    return backward.depth > 0 or torch._C._current_autograd_node() is not None


def _frames(frame: FrameType | None, *, within: bool) -> tuple[tuple[Frame, ...], list[FrameType]]:
    """The user's frames, innermost first, up to where the step is executed again.

    Args:
        within: of the second, only those that the innermost backward pass under way called.
    """
    found: list[FrameType] = []
    inner: int | None = None
    while frame is not None and frame.f_code.co_filename != _RERUN:
        if frames.is_users(frame.f_code):
            found.append(frame)
        elif within and inner is None and frame.f_code is _ENGINE:
            inner = len(found)
        frame = frame.f_back
    told = [(f.f_code.co_filename, f.f_lineno, f.f_code.co_name) for f in found[:MOST_FRAMES]]
    return tuple(told), found[:inner]


def _custom(frame: FrameType) -> str:
    """Name of the `autograd.Function` whose forward or backward a frame is."""
    code = frame.f_code
    if code.co_name not in ("forward", "backward", "vjp", "jvp") or not code.co_argcount:
        return ""
    first = frame.f_locals.get(code.co_varnames[0])
    if isinstance(first, FunctionCtx):
        function = getattr(type(first), "_forward_cls", None)
    else:  # with a context that is set up apart, `forward` does not get it
        function = next((each for each in _functions(Function) if _code_of(each.forward) is code), None)
    if function is None or function.__module__.partition(".")[0] == "torch":
        return ""
    return str(function.__name__)


def _functions(base: type[Function]) -> Iterator[type[Function]]:
    """Every class of functions."""
    for each in base.__subclasses__():
        yield each
        yield from _functions(each)


def _code_of(function: Any) -> CodeType | None:
    """Of what a decorator, such as that of mixed precision, may have wrapped."""
    return getattr(inspect.unwrap(function), "__code__", None)
