"""Where an operation happens: phase, module, function that the user called, lines of the user's code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.nn.modules import module as every_module
from torch.optim import Optimizer
from torch.optim import optimizer as every_optimizer
from torch.overrides import TorchFunctionMode, resolve_name

from nanscope.recording import backward
from nanscope.recording.rewind import rerun, tape
from nanscope.recording.rewind.tape import Frame

MOST_FRAMES = 6
_RERUN = str(Path(rerun.__file__))

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

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if tape.is_backward(func):  # what is called within belongs to the pass
            return func(*args, **(kwargs or {}))
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
        self._modules: list[str] = []
        self._optimizers: list[str] = []
        self._backward_over = False
        self.on_backward: Callable[[Sequence[Tensor]], None] = lambda _: None
        self.on_output: Callable[[Tensor], None] = lambda _: None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look; everything is taken off again."""
        handles = [
            every_module.register_module_forward_pre_hook(self._enter),
            every_module.register_module_forward_hook(self._leave, always_call=True),
            every_optimizer.register_optimizer_step_pre_hook(self._begin_update),
            every_optimizer.register_optimizer_step_post_hook(self._end_update),
        ]
        backward.watch(self)
        try:
            with self._calls:
                yield
        finally:
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

    @property
    def phase(self) -> str:
        """Of the step, now."""
        if backward.is_running() or torch._C._current_autograd_node() is not None:
            return "backward"
        if self._optimizers:
            return "update"
        if self._modules:
            return "forward"
        return "update" if self._backward_over else "loss"

    def look(self) -> Surroundings:
        """What is under way now."""
        phase = self.phase
        frames, python = _frames(sys._getframe(1))
        custom = next((name for frame in python if (name := _custom(frame))), "")
        hook = python[0].f_code.co_name if phase == "backward" and python and not custom else ""
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
    def _module(self) -> str:
        return self._modules[-1] if self._modules else ""

    def _enter(self, module: nn.Module, _args: Any) -> None:
        self._modules.append(self._names.get(id(module), self._module))

    def _leave(self, _module: nn.Module, _args: Any, output: Any) -> None:
        for tensor in output if isinstance(output, tuple) else (output,):
            if isinstance(tensor, Tensor):
                self.on_output(tensor)
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


def _frames(frame: FrameType | None) -> tuple[tuple[Frame, ...], list[FrameType]]:
    """The user's frames, innermost first, up to where the step is executed again."""
    found: list[FrameType] = []
    while frame is not None and frame.f_code.co_filename != _RERUN:
        if tape.is_users(frame.f_code):
            found.append(frame)
        frame = frame.f_back
    told = [(f.f_code.co_filename, f.f_lineno, f.f_code.co_name) for f in found[:MOST_FRAMES]]
    return tuple(told), found


def _custom(frame: FrameType) -> str:
    """Name of the `autograd.Function` whose forward or backward a frame is."""
    code = frame.f_code
    if code.co_name not in ("forward", "backward", "vjp", "jvp") or not code.co_argcount:
        return ""
    first = frame.f_locals.get(code.co_varnames[0])
    if not isinstance(first, BackwardCFunction | torch.autograd.function.FunctionCtx):
        return ""
    function = getattr(type(first), "_forward_cls", None)
    if function is None or function.__module__.partition(".")[0] == "torch":
        return ""
    return str(function.__name__)
