"""What is kept of a training, so that its last steps can be executed again."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from nanscope.recording.rewind.inquiry import Snapshot
from nanscope.recording.rewind.keeper import Slot, State, meant_infinities, slots_of
from nanscope.recording.rewind.repeat import Repeat
from nanscope.recording.rewind.tape import Context, Event, Program, StatePlace
from nanscope.recording.rewind.usual import Brief

STATE_BYTES = 256 << 20  # of the snapshots
BATCH_BYTES = 64 << 20  # of what went into the steps since the older snapshot
MOST_STEPS = 2_000
MOST_SNAPSHOTS = 2
EVERY = 64  # divides the numbers of the steps of which snapshots are: where they are cheap all machines agree
SMALL_BYTES = 1 << 20  # of a state that is copied in no time: always taken when its step comes
SHARE = 100  # a snapshot is taken when a hundred times as long has passed as one takes
TRIED = 3  # steps in which it is seen whether the forward pass draws from Python's or numpy's generator
_VERSION, _REQUIRES_GRAD, _TRAINING = map(attrgetter, ("_version", "requires_grad", "training"))
MOST_POKES = 8  # steps in which what somebody wrote into the state from outside is copied


class Memory:
    """Of one training.

    Attributes:
        snapshots: states before steps, oldest first.
        meant: ids of the buffers that are infinite by design.
        is_poked: whether somebody writes into parameters between the steps.
    """

    def __init__(self, model: nn.Module, optimizers: list[Optimizer]) -> None:
        self._model, self._optimizers = model, optimizers
        self._steps: deque[Program | Brief | Repeat] = deque()
        self.snapshots: list[Snapshot] = []
        self.is_poked = False
        self._bytes = 0
        self._next = 0.0
        self._size = 0  # bytes of a snapshot
        self._too_large = False
        self.renew()

    def renew(self) -> None:
        """The model has other tensors than it had: what was kept of them is of no use."""
        self.meant: set[int] = set()
        self._ready = False  # whether all tensors of the model are known
        self.snapshots, self._next = [], 0.0
        self._slots: list[Slot] = []
        self._buffers: list[Any] = []
        self._before: list[Tensor] = []
        self._modules = list(self._model.modules())
        self._parameters = list(self._model.parameters())
        self._flags: list[bool] = []
        self._graded: list[bool] = []
        self._versions: list[int] | None = None
        self._state_versions: dict[int, list[int]] = {}
        self._pokes = 0
        self._draws = False
        self._forget(1 << 62)

    def pause(self) -> None:
        """Steps follow that nobody tells of."""
        self._versions, self._next = None, 0.0
        self._state_versions.clear()

    def begin(self, program: Program) -> None:
        """A step begins: nothing has run in it."""
        self._note_buffers(program.number)
        flags = [module.training for module in self._modules]
        if flags != self._flags:
            self._flags = flags
        program.training = self._flags
        graded = [parameter.requires_grad for parameter in self._parameters]
        if graded != self._graded:
            self._graded = graded
        program.graded = self._graded
        self._note_pokes(program)
        now = time.perf_counter()
        if self._too_large or not self._ready:
            return
        if self._is_due(program.number, now) or self._is_full():
            self._take_snapshot(program.number)
            took = time.perf_counter() - now
            # the first one is of an untrained model, and of cold memory: what it took tells nothing
            rests = self._size > SMALL_BYTES and len(self.snapshots) > 1
            self._next = now + took * (1 + SHARE) if rests else now

    def is_usual(self, number: int) -> bool:
        """Whether a step that begins now finds all as the last one left it, and nothing is to be done."""
        if not self._ready or self._draws or number < TRIED or self._is_full():
            return False
        if not (self._too_large or (self.snapshots and number % EVERY)) and time.perf_counter() >= self._next:
            return False  # a snapshot is due
        if self._slots:
            self._note_buffers(number)
        return (
            list(map(_VERSION, self._parameters)) == self._versions
            and list(map(_REQUIRES_GRAD, self._parameters)) == self._graded
            and list(map(_TRAINING, self._modules)) == self._flags
        )

    def end(self, step: Program | Brief | Repeat) -> None:
        """It is over."""
        self._steps.append(step)
        self._bytes += step.bytes
        self._versions = list(map(_VERSION, self._parameters))

    def is_own(self, optimizer: Optimizer) -> bool:
        """Whether nobody but itself has written into an optimizer's state since its last update."""
        known = self._state_versions.get(id(optimizer))
        return known is None or known == _versions(optimizer)

    def begin_update(self, program: Program, optimizer: Optimizer) -> None:
        """What somebody wrote into an optimizer's state since its last update."""
        if not self.is_own(optimizer):
            poked = [(at, t.detach().clone()) for at, t in _states(optimizer)]
            program.events.append(Event(None, (), {}, poked=poked))

    def end_update(self, optimizer: Optimizer) -> None:
        """Its state is its own work so far."""
        self._state_versions[id(optimizer)] = _versions(optimizer)

    def before(self) -> State:
        """The state before the step under way, if no optimizer has stepped in it."""
        state = State(self._model, self._optimizers)
        held = {id(tensor): kept for tensor, kept in zip(self._buffers, self._before, strict=True)}
        state.replace(held, [(slot, t) for slot, t in zip(self._slots, self._buffers, strict=True)])
        return state

    def add(self, optimizer: Optimizer) -> None:
        """An optimizer that was not known until it stepped."""
        self._optimizers.append(optimizer)
        for snapshot in self.snapshots:
            snapshot.state.add(optimizer)

    def context(self, number: int) -> Context:
        """What a call of the root depends on beside its arguments."""
        autocast = {}
        if torch.is_autocast_enabled("cpu"):
            autocast["cpu"] = torch.get_autocast_dtype("cpu")
        cuda: tuple[Tensor, ...] = ()
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            cuda = tuple([generator.get_state() for generator in torch.cuda.default_generators])
            if torch.is_autocast_enabled("cuda"):
                autocast["cuda"] = torch.get_autocast_dtype("cuda")
        others = _others() if self._draws or number < TRIED else None
        return Context(torch.default_generator.get_state(), cuda, autocast, others)

    def end_call(self, context: Context) -> None:
        """A call of the root has returned."""
        if not self._draws and context.others is not None:
            self._draws = not _is_same(context.others, _others())

    @property
    def programs(self) -> list[Program]:
        """The steps since the older snapshot."""
        return [step if isinstance(step, Program) else step.program() for step in self._steps]

    def is_sound(self, state: State) -> bool:
        """Whether nothing in it is bad but what was infinite from the first."""
        return state.nonfinite() <= self.meant

    def clear(self) -> None:
        """Keep nothing more."""
        self._steps.clear()
        self._bytes = 0
        self.snapshots, self._buffers, self._before, self._slots = [], [], [], []

    def _note_buffers(self, number: int) -> None:
        if not self._ready or number < TRIED:  # a module may make its buffers when it is first called
            self._ready = not any(map(is_lazy, self._model.parameters()))
            if not self._slots:
                self.meant = meant_infinities(self._model)
            self._slots = slots_of(self._model)
            self._buffers = []
        now = [slot.held.get(slot.name) for slot in self._slots]
        if not now:
            return
        if any(a is not b for a, b in zip(now, self._buffers, strict=False)) or not self._buffers:
            self._buffers = now
            self._before = [tensor.detach().clone() for tensor in now if tensor is not None]
        else:
            torch._foreach_copy_(self._before, self._buffers)

    def _note_pokes(self, program: Program) -> None:
        """What somebody wrote into parameters since the last update."""
        if self._versions is None or self._versions == [p._version for p in self._parameters]:
            return
        self._pokes += 1
        self.is_poked = self._pokes > 1
        if self._pokes <= MOST_POKES:
            program.events.append(Event(None, (), {}, poked=_copies(self._parameters, self._versions)))

    def _is_due(self, number: int, now: float) -> bool:
        return now >= self._next and (number % EVERY == 0 or not self.snapshots)

    def _take_snapshot(self, number: int) -> None:
        if len(self.snapshots) == MOST_SNAPSHOTS:
            spare = self.snapshots.pop(self._is_poisoned() and not self._is_full())
            spare.state.renew(self._model, self._optimizers)
            self.snapshots.append(Snapshot(number, spare.state))
        else:
            self.snapshots.append(Snapshot(number, State(self._model, self._optimizers)))
        self._size = self.snapshots[-1].state.bytes
        if self._size > STATE_BYTES:
            self._too_large, self.snapshots = True, []
        elif len(self.snapshots) * self._size > STATE_BYTES:
            del self.snapshots[0]
        self._forget(self.snapshots[0].number if self.snapshots else number)

    def _is_poisoned(self) -> bool:
        """Whether the older snapshot alone leads back to before a value turned non-finite."""
        older, newer = (snapshot.state.nonfinite() for snapshot in self.snapshots)
        return not newer <= older

    def _is_full(self) -> bool:
        return self._bytes > BATCH_BYTES // 2 or len(self._steps) > MOST_STEPS

    def _forget(self, before: int) -> None:
        while self._steps and self._steps[0].number < before:
            self._bytes -= self._steps.popleft().bytes


def _states(optimizer: Optimizer) -> list[tuple[StatePlace, Tensor]]:
    return [
        ((optimizer, parameter, key), value)
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    ]


def _versions(optimizer: Optimizer) -> list[int]:
    """Of the tensors of its state, in the same order."""
    versions = []
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, Tensor):
                versions.append(value._version)  # noqa: PERF401 - a comprehension is a call more
    return versions


def _copies(tensors: Sequence[Tensor], versions: Sequence[int]) -> list[tuple[Tensor | StatePlace, Tensor]]:
    known = [*versions, *[-1] * len(tensors)]
    return [(t, t.detach().clone()) for t, v in zip(tensors, known, strict=False) if t._version != v]


def _others() -> tuple[Any, Any]:
    return random.getstate(), np.random.get_state(legacy=False)  # noqa: NPY002 - the one that programs draw from


def _is_same(one: tuple[Any, Any], other: tuple[Any, Any]) -> bool:
    """Whether two states of both generators are equal; to write them out as text would take milliseconds."""
    ours, theirs = one[1]["state"], other[1]["state"]
    return one[0] == other[0] and ours["pos"] == theirs["pos"] and np.array_equal(ours["key"], theirs["key"])
