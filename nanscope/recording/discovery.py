"""Discovery: find what is trained, without being told, and start a recorder for it.

A root is a module that the program calls itself, that is not from within the call of another module. Roots
are met in `nanscope.recording.calls`, just before they run:

* with autograd on and a parameter to train: a recorder is opened before that call runs, so its first step is
  whole. Which optimizer will step it need not be known: the recorder takes any that holds one of its
  parameters, also one that is made later. A model that is never stepped ends with `steps == 0`.
* otherwise (an evaluation, a frozen model, a loss, a metric): the call is only looked at, by `look`. So is
  a call of a recorded model as long as no backward pass follows the calls: nothing else would see its output.
* a part of a model that is recorded already is left to that recorder. If the whole is met after its part, it
  takes the part's place, unless a backward pass went through that by then (as in a GAN): then both are.
* a model that the user records with `nanscope.record` is left alone for the rest of the block, also if our
  recorder came first.

Several models may be trained at once. Where one is found, recorders of others that are between two steps
sleep until their model is called again: a program that trains one model after the other pays for one. Of
more than `MOST` the one that was called least recently is closed, and opened again if it is called again, so
that a search over hundreds of models holds only a few of them.

Only the thread and the process that entered the block are watched, outside of backward passes (a checkpoint
runs a part of its model again) and of transforms and tracers, whose tensors hold no numbers.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch._C import DisableTorchFunction
from torch.optim import Optimizer
from torch.optim import optimizer as every_optimizer

from nanscope.recording import calls, forgetting
from nanscope.recording.base import BaseRecorder, recording
from nanscope.recording.calls import Leave
from nanscope.recording.compiled import is_transformed, unwrapped
from nanscope.recording.ledger import Trouble
from nanscope.recording.rewind.frames import Trace, trace
from nanscope.recording.rewind.listener import Listener, hush, hush_forgetting, rest, wake
from nanscope.recording.rewind.tape import Event

MOST = 8  # recorders at a time


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """An outermost call of a module that no backward pass is expected to follow.

    Attributes:
        recorder: of this model, if it has one.
        came: the user's frames, innermost first.
        rng: state of torch's CPU generator before it.
    """

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    recorder: BaseRecorder | None
    came: Trace
    rng: Tensor


@dataclass(frozen=True, slots=True)
class Found:
    """What became of one recorder.

    Attributes:
        name: what the model is called.
        path: the run file, None if there is none.
        origin: the fields of the event `origin`, if the first harmful birth was found.
        noticed: the step in which a loss, a gradient or a parameter was first seen not to be finite.
        scaled: whether a gradient scaler was at work, which skips such steps.
    """

    name: str
    path: Path | None
    steps: int
    trouble: Trouble | None
    origin: Mapping[str, Any] | None
    noticed: int | None
    scaled: bool


Open = Callable[[nn.Module], BaseRecorder | None]
Look = Callable[[Call, Any], None]
Closing = Callable[[BaseRecorder], None]
Name = Callable[[nn.Module], str]


class Discovery:
    """Finds and records what is trained in its `with` block.

    Args:
        open: makes the recorder of a model (and does not enter it), None to leave the model alone.
        look: called with each outermost call that belongs to no training, and with what it returned.
        closing: called with each recorder just before it is closed.
        name: what a model is called; by default its class.

    Attributes:
        found: what became of the recorders that were closed, in the order of closing.
    """

    def __init__(
        self,
        open: Open,  # noqa: A002 - as Path has it
        *,
        look: Look | None = None,
        closing: Closing | None = None,
        name: Name = lambda model: type(model).__name__,
    ) -> None:
        self._make, self._look, self._closing, self._name = open, look, closing, name
        self._decided: weakref.WeakValueDictionary[int, nn.Module] = weakref.WeakValueDictionary()
        self._recorders: dict[int, BaseRecorder] = {}  # by id of the model; the last one was called last
        self._theirs: weakref.WeakKeyDictionary[BaseRecorder, set[int]] = weakref.WeakKeyDictionary()
        self._backwards: weakref.WeakKeyDictionary[BaseRecorder, int] = weakref.WeakKeyDictionary()
        self._asleep: weakref.WeakSet[BaseRecorder] = weakref.WeakSet()
        self._muted: list[tuple[Listener, list[Event] | None]] = []
        self._stepping: Optimizer | None = None
        self.found: list[Found] = []

    def __enter__(self) -> Self:
        self._pid, self._thread = os.getpid(), threading.get_ident()
        self._before = calls.meet(self._meet, hush)
        forgetting.watch(hush_forgetting)
        self._handles = [
            every_optimizer.register_optimizer_step_pre_hook(self._mute),
            every_optimizer.register_optimizer_step_post_hook(self._unmute),
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace_: TracebackType | None
    ) -> bool:
        calls.meet(self._before)
        forgetting.unwatch()
        for handle in self._handles:
            handle.remove()
        stopped = False
        with DisableTorchFunction():  # of the last looks nobody is to hear
            for recorder in self.recorders:
                stopped |= self._leave(recorder, kind, error, trace_)
        return stopped

    @property
    def recorders(self) -> tuple[BaseRecorder, ...]:
        """Those that are open, the one that was called last at the end."""
        return tuple(self._recorders.values())

    # -- the roots ------------------------------------------------------------------------------------

    def _meet(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Leave | None:
        if os.getpid() != self._pid or threading.get_ident() != self._thread or _is_elsewhere():
            return None
        model = unwrapped(module)
        followed = torch.is_grad_enabled() and self._is_followed(model)
        recorder = self._recorders.get(id(model))
        if recorder is None and (followed or self._is_theirs(model)):
            return None
        if recorder is not None and (not recorder.is_active or (followed and self._is_training(recorder))):
            return None
        look = self._look
        if look is None:
            return None
        came, rng = trace(sys._getframe(2)), torch.default_generator.get_state()
        call = Call(module, args, kwargs, recorder, came, rng)
        return lambda _args, output: look(call, output)

    def _is_training(self, recorder: BaseRecorder) -> bool:
        """Whether a backward pass followed the last call."""
        before = self._backwards.get(recorder, 0)
        self._backwards[recorder] = recorder.backwards
        return recorder.backwards > before

    def _is_followed(self, model: nn.Module) -> bool:
        """Whether a call with autograd on is a recorder's to follow; one is opened if it is time."""
        key = id(model)
        recorder = self._recorders.get(key)
        if recorder is not None:
            if len(self._recorders) > 1:
                self._recorders[key] = self._recorders.pop(key)
            self._wake(recorder)
            return True
        if self._decided.get(key) is model:
            for each in tuple(self._asleep):  # it may be a part of one of theirs
                self._wake(each)
            return True
        if not any(parameter.requires_grad for parameter in model.parameters()):
            return False
        self._decided[key] = model
        if not self._is_theirs(model) and not any(model in r.model.modules() for r in self.recorders):
            self._open(model)
        return True

    def _wake(self, recorder: BaseRecorder) -> None:
        if recorder in self._asleep:
            self._asleep.discard(recorder)
            if recorder.is_active:
                recorder._resume()

    def _is_theirs(self, model: nn.Module) -> bool:
        """Whether it is, or is a part of, what somebody else records."""
        for other in recording():
            if other not in self._theirs:
                ours = self._recorders.get(id(other.model)) is other
                self._theirs[other] = set() if ours else set(map(id, other.model.modules()))
            if id(model) in self._theirs[other]:
                return True
        return False

    def _open(self, model: nn.Module) -> None:
        recorder = self._make(model)
        if recorder is None:
            return
        parts = set(map(id, model.modules()))
        for other in [each for each in self.recorders if id(each.model) in parts and not each.backwards]:
            del self._recorders[id(other.model)]
            other.close()
        while len(self._recorders) >= MOST:
            oldest = self.recorders[0]
            del self._decided[id(oldest.model)]
            self._leave(oldest, None, None, None)
        for other in self.recorders:
            if other.is_idle and other not in self._asleep:
                self._asleep.add(other)
                other._suspend()
        recorder.gives_way = True
        recorder.__enter__()
        self._recorders[id(model)] = recorder
        if self._stepping is not None and recorder.takes(self._stepping):
            recorder._by_hand.give_up()  # what its closure calls for is one step, though parameters change

    # -- updates --------------------------------------------------------------------------------------

    def _mute(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        """The update of one model is no part of the step that another one is in."""
        self._stepping = optimizer
        others = [each._rewinder._listener for each in self.recorders if not each.takes(optimizer)]
        self._muted = [(listener, listener.events) for listener in others if listener.events is not None]
        for listener, _ in self._muted:
            listener.events = None
        rest()

    def _unmute(self, _optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        self._stepping = None
        for listener, events in self._muted:
            listener.events = events
        self._muted = []
        wake()

    # -- leaving --------------------------------------------------------------------------------------

    def _leave(self, recorder: BaseRecorder, *raised: Any) -> bool:
        """Close it and say what became of it."""
        self._recorders.pop(id(recorder.model), None)
        if self._closing is not None:
            self._closing(recorder)
        stopped = recorder.__exit__(*raised)
        self.found.append(
            Found(
                self._name(recorder.model),
                recorder.path,
                recorder.steps,
                recorder.trouble,
                recorder.origin,
                recorder.noticed,
                recorder.is_scaled,
            )
        )
        return stopped


def _is_elsewhere() -> bool:
    """Whether this is no call of the training's own: in a backward pass, a transform or a tracer."""
    return torch._C._current_graph_task_id() != -1 or is_transformed()
