"""What every recorder is: how it is entered and left, what the user may ask, and how it fails softly.

Nothing is changed in the model, the optimizer or the random state. If a recorder itself fails, it says so
once and steps aside; the training goes on.
"""

from __future__ import annotations

import os
import time
import traceback
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from torch import Tensor, nn
from torch.optim import Optimizer

from nanscope.errors import NonFiniteError, UsageError
from nanscope.recording import backward, processes
from nanscope.recording.compiled import unwrapped
from nanscope.recording.environment import environment, structure
from nanscope.recording.ledger import Trouble
from nanscope.recording.places import Layout, Places
from nanscope.recording.probes import Probes
from nanscope.recording.registrations import Registrations
from nanscope.recording.rewind.rewind import Rewinder
from nanscope.recording.rewind.tape import Program
from nanscope.recording.rows import Step
from nanscope.recording.scaling import Number, Scalers
from nanscope.recording.sink import TROUBLES, KeepRun, Sink
from nanscope.recording.spoilt import broken_state, snapshot_room
from nanscope.recording.state import capture
from nanscope.recording.updates import ByHand, Updates
from nanscope.run import Header
from nanscope.store.snapshots.writer import SnapshotRoom
from nanscope.values import Epoch
from nanscope.warn import warn

LONGEST_MESSAGE = 10_000  # letters of an exception's text that are kept

OnNonfinite = Literal["record", "raise", "stop"]
T = TypeVar("T")

_recorded: weakref.WeakKeyDictionary[nn.Module, BaseRecorder] = weakref.WeakKeyDictionary()


def recording() -> list[BaseRecorder]:
    """The recorders whose block was entered and not left."""
    return list(_recorded.values())


class _Stop(BaseException):
    """Leaves the `with` block; no `except Exception` in the loop catches it."""


class BaseRecorder(ABC):
    """Watches the training in its `with` block.

    Attributes:
        steps: ended steps.
        gives_way: whether it ends where another recorder of the same model begins.
        origin: the fields of the event `origin`, once the first harmful birth was found.
        noticed: the step in which something harmful was first noticed and looked into.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: tuple[Optimizer, ...] | None,
        path: Path,
        *,
        on_nonfinite: OnNonfinite,
        config: Mapping[str, Any],
        capacity: int | None,
        budget: int,
        keep_run: KeepRun,
        logits: str | None,
        rewind: bool,
        keep_batch: bool,
        verify_remedies: bool,
    ) -> None:
        self._rewinds, self._keeps_batch, self._verifies = rewind, keep_batch, verify_remedies
        self._model = unwrapped(model)
        self._optimizers = optimizers
        self._on_nonfinite = on_nonfinite
        self._config = config
        self._places = Places(self._model)
        if logits is not None and logits not in self._places.outputs:
            raise UsageError(
                f"logits={logits!r} names no watched module", "use a name of model.named_modules()"
            )
        self._logits = logits
        self._wanted, self._capacity, self._budget, self._keep_run = path, capacity, budget, keep_run
        self._active = self.gives_way = False
        self.origin: Mapping[str, Any] | None = None
        self.noticed: int | None = None
        self.steps = 0

    # -- entering and leaving --------------------------------------------------------------------------

    def __enter__(self) -> Self:
        other = _recorded.get(self._model)
        if other is not None and other.gives_way:
            other.close()
        elif other is not None:
            raise UsageError("this model is already being recorded", "leave the other `with` block first")
        _recorded[self._model] = self
        self._sink = Sink(self._wanted, self._capacity, self._budget, self._keep_run)
        self._step = Step(0)
        self._by_hand = ByHand(self._optimizers)
        self._state_told = False
        self._backwards = 0
        self._scale: Number | None = None  # of the backward pass that runs, or ran last
        self._began = time.time()
        self._zero = time.perf_counter()
        self._active = True
        self._pid = os.getpid()
        self._attach()
        self._registrations = Registrations(self._notice_registration)
        self._scalers = Scalers(self._concerns, self._after_scaled_update, self._guard)
        self._scalers.attach()
        backward.watch(self)
        self._rewinder = Rewinder(
            self._model,
            self._optimizers or (),
            tell=self._tell_rewound,
            aside=self._aside,
            fail=self._step_aside,
            keep=self._keep_state,
            verifies=self._verifies,
        )
        if not self._rewinds:
            self._rewinder.close()
        if why := processes.obstacle(self._model):
            self._step_aside(UsageError(why, "DistributedDataParallel is recorded"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if os.getpid() != self._pid:  # a forked child leaves the block: the run is its parent's
            self._detach()
        elif kind is None or kind is _Stop or _is_calm_exit(error):
            self.close("finished")
        elif issubclass(kind, KeyboardInterrupt):
            self.close("interrupted")
        else:
            self._sink.event("error", self.steps, message=_message(kind, error))
            self.close("failed")
        return kind is _Stop

    def close(self, state: str = "finished") -> None:
        """Stop recording: remove every hook, finish the run file. Harmless when done before."""
        if self._active and self._updates.begun:
            self._guard(self._end_step)()
        if self._active:
            self._guard(self._end_step_by_hand)()
        if self._active:
            self._guard(self._rewinder.finish)()
        self._detach()
        try:
            self._write_the_rest()
        except Exception as error:  # noqa: BLE001 - an exception of the training must not be replaced by ours
            self._step_aside(error)
        finally:
            if self.trouble is not None:
                self._sink.need()
            self._sink.close(state)
        if not self.steps and self._backwards:
            self._tell("no optimizer step was seen: pass the optimizer to record(), or use recorder.step()")

    def _detach(self) -> None:
        self._active = False
        self._rewinder.close()
        backward.unwatch(self)
        self._scalers.remove()
        self._registrations.remove()
        self._updates.remove()
        self._probes.remove()
        self._step = Step(self.steps)  # an unfinished one holds tensors
        if _recorded.get(self._model) is self:
            del _recorded[self._model]

    def _suspend(self) -> None:
        """Take every hook off between two steps, as if nothing were recorded."""
        backward.unwatch(self)
        self._scalers.remove()
        self._updates.remove()
        self._rewinder.detach()
        self._probes.detach()

    def _resume(self) -> None:
        """Go on."""
        backward.watch(self)
        self._scalers.attach()
        self._updates.attach()
        self._probes.attach()
        if not self._rewinder.done:
            self._rewinder.attach()

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """A step is executed again: nobody who records hears or sees it."""
        with ExitStack() as stack:
            for recorder in recording():
                stack.enter_context(recorder._deaf())
            yield

    @contextmanager
    def _deaf(self) -> Iterator[None]:
        """Hear and see nothing; the hooks stay: torch may be walking through its list of them."""
        before = self._active, self._probes.active
        self._active = self._probes.active = False
        try:
            with self._rewinder.deaf():
                yield
        finally:
            self._active, self._probes.active = before

    # -- what the user may call ------------------------------------------------------------------------

    @property
    def path(self) -> Path | None:
        """Where the run file is, or will be; None when it cannot be written."""
        return self._sink.path

    @property
    def model(self) -> nn.Module:
        """The root module, without the compiler's wrapper."""
        return self._model

    @property
    def is_active(self) -> bool:
        """Whether it records: its block was entered, not left, and nothing of its own has failed."""
        return self._active

    @property
    @abstractmethod
    def is_under_way(self) -> bool:
        """Whether a backward pass was made in a step that has not ended."""

    @property
    def is_scaled(self) -> bool:
        """Whether a gradient scaler was seen at work on its gradients."""
        return bool(self._scalers.seen)

    @property
    def is_idle(self) -> bool:
        """Whether it is between two steps: nothing was called, and no optimizer has stepped."""
        return self._active and not self._under_way and not self._updates.begun

    @property
    def backwards(self) -> int:
        """Backward passes that went through the model."""
        return self._backwards

    @property
    def optimizers(self) -> tuple[Optimizer, ...]:
        """Those that were given, and those that have stepped the model."""
        return self._rewinder.optimizers

    def takes(self, optimizer: Optimizer) -> bool:
        """Whether an optimizer is one of those that end its steps."""
        return self._active and self._updates.concerns(optimizer)

    @property
    @abstractmethod
    def trouble(self) -> Trouble | None:
        """The first non-finite value that reached a loss, a gradient or a parameter; None so far."""

    def step(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run one whole step as a function; it ends the step even if no optimizer does."""
        before = self.steps
        result = fn(*args, **kwargs)
        if self._active and self.steps == before:
            self._guard(self._end_step)()
            self._answer_trouble()
        return result

    def tell(self, kind: str, **fields: Any) -> None:
        """Note what somebody else has seen in the step under way, and keep the run file for it."""
        if kind == "origin":
            self.origin, self.noticed = {"step": self.steps, **fields}, self.steps
        self._sink.event(kind, self.steps, **fields)
        self._sink.need()

    def log(self, **scalars: float) -> None:
        """Record scalars of the step under way."""
        self._step.scalars.update({name: float(value) for name, value in scalars.items()})

    def log_epoch(self, epoch: Epoch) -> None:
        """Record an evaluation."""
        self._sink.epoch(epoch)

    # -- the modules -----------------------------------------------------------------------------------

    def _attach(self) -> None:
        """Watch the modules and parameters that the model has now."""
        self._probes = self._watch_modules()
        if self._by_hand.wanted:
            self._probes.before = self._end_step_by_hand
        self._updates = Updates(
            self._optimizers, self._places.parameters, self._guard(self._before_update), self._after_update
        )

    @abstractmethod
    def _watch_modules(self) -> Probes:
        """What hears of their calls, and all that goes with it."""

    @property
    @abstractmethod
    def _under_way(self) -> bool:
        """Whether anything of a step was heard that has not ended."""

    @abstractmethod
    def _write_down(self, *, wait: bool = False) -> None:
        """Nothing may wait any longer for the steps to come; with `wait`, nor for a GPU."""

    def _pause(self) -> None:
        """An evaluation begins: nothing may wait for its end."""
        self._write_down()

    def _notice_registration(self) -> None:
        self._probes.stale = True

    def _renew(self) -> Probes | None:
        """Between two steps: look whether the model has other modules or parameters than it had."""
        if self._under_way or self._updates.begun:
            return None
        self._probes.stale = False
        places = Places(self._model)
        if places.same_as(self._places) or (self._logits is not None and self._logits not in places.outputs):
            return None
        self._write_down(wait=True)
        self._updates.remove()
        self._probes.remove()
        self._places = places
        self._rewinder.renew()
        self._attach()
        return self._probes

    # -- backward passes -------------------------------------------------------------------------------

    @abstractmethod
    def _prepare(self, roots: tuple[Tensor, ...]) -> None:
        """A backward pass begins."""

    @abstractmethod
    def _measure(self, roots: tuple[Tensor, ...]) -> None:
        """It has ended; without roots, gradients came by another way."""

    def before_backward(self, roots: tuple[Tensor, ...]) -> None:
        """See `nanscope.recording.backward.Watcher`."""
        if self._active:
            try:
                self._prepare(roots)
            except Exception as error:  # noqa: BLE001 - whatever it is, it must not reach the training
                self._step_aside(error)

    def after_backward(self, roots: tuple[Tensor, ...]) -> None:
        """See `nanscope.recording.backward.Watcher`."""
        if self._active:
            try:
                self._measure(roots)
            except Exception as error:  # noqa: BLE001 - whatever it is, it must not reach the training
                self._step_aside(error)

    def backward_failed(self) -> None:
        """See `nanscope.recording.backward.Watcher`."""
        self._guard(self._probes.drop_backward)()

    # -- updates ---------------------------------------------------------------------------------------

    @abstractmethod
    def _before_update(self, optimizer: Optimizer) -> None:
        """An optimizer is about to step."""

    @abstractmethod
    def _end_step(self) -> None:
        """The step under way is over."""

    def _concerns(self, optimizer: Optimizer) -> bool:
        return self._updates.concerns(optimizer)

    def _after_update(self, optimizer: Optimizer) -> None:
        if not self._scalers.defers(optimizer):
            self._after_scaled_update(optimizer)

    def _after_scaled_update(self, optimizer: Optimizer) -> None:
        """An update was made, or a gradient scaler has skipped it."""
        if self._active:
            try:
                self._count_update(optimizer)
            except Exception as error:  # noqa: BLE001 - whatever it is, it must not reach the training
                self._step_aside(error)
        if self._on_nonfinite != "record":
            self._answer_trouble()  # not guarded: it raises where the user asked for it

    def _count_update(self, optimizer: Optimizer) -> None:
        self._rewinder.end_update(optimizer)
        if self._by_hand.wanted:
            self._by_hand.give_up()
        self._probes.before = None
        lr = optimizer.param_groups[0].get("lr")
        if lr is not None and not (isinstance(lr, Tensor) and lr.is_cuda):
            self._step.scalars.setdefault("lr", float(lr))
        if self._updates.count(optimizer):
            self._end_step()

    def _end_step_by_hand(self) -> None:
        """The step is over if somebody has written into the parameters, and no optimizer does it."""
        if self.is_under_way and self._by_hand.stepped():
            self._end_step()

    def _answer_trouble(self) -> None:
        trouble = self.trouble
        if trouble is None or self._on_nonfinite == "record" or not self._active:
            return
        if self._on_nonfinite == "stop":
            raise _Stop
        where = "the loss" if trouble.site is None else str(trouble.site)
        raise NonFiniteError(
            f"non-finite value in step {trouble.step}, {trouble.phase} phase, first at {where}",
            f"see nanscope diagnose {self.path}",
        )

    # -- the run file ----------------------------------------------------------------------------------

    @abstractmethod
    def _write_the_rest(self) -> None:
        """The training is over: what has not been written is now, if anything is to be."""

    def _header(self, layout: Layout) -> Header:
        about = environment(self._model)
        return Header(
            layout.columns, self._config, about, structure(self._model, self._optimizers), self._began
        )

    def _room(self) -> SnapshotRoom | None:
        """For the state before a bad step; None if none is to be kept."""
        if self._rewinder.done:
            return None
        batch = self._rewinder.batch if self._keeps_batch else None
        return snapshot_room(self._model, self._optimizers or (), batch)

    def _keep_state(self, program: Program) -> None:
        with suppress(UsageError):  # of a kind that cannot be stored
            pieces, meta = capture(
                self._model, self._optimizers or (), program.batch if self._keeps_batch else None
            )
            self._sink.snapshot(program.number, time.perf_counter() - self._zero, pieces, meta)

    def _tell_rewound(self, kind: str, step: int, **fields: Any) -> None:
        if kind == "origin":
            self.origin = {"step": step, **fields}
        if kind in TROUBLES and self.noticed is None:
            self.noticed = step
        self._sink.event(kind, step, **fields)

    def _tell_state(self) -> None:
        """Note, once, what is broken in the state that the next update has not touched yet."""
        if self._state_told:
            return
        self._state_told = True
        self._sink.event("state", self.steps, **broken_state(self._model))

    # -- failing softly --------------------------------------------------------------------------------

    def _guard(self, hook: Callable[..., None]) -> Callable[..., None]:
        def guarded(*args: Any, **kwargs: Any) -> None:
            if self._active:
                try:
                    hook(*args, **kwargs)
                except Exception as error:  # noqa: BLE001 - whatever it is, it must not reach the training
                    self._step_aside(error)

        return guarded

    def _step_aside(self, error: Exception) -> None:
        # the hooks go when the block is left: torch may be walking through its list of them right now
        self._active = self._probes.active = False
        self._rewinder.done = True
        self._probes.clear()
        trace = "".join(traceback.format_exception(error))[-LONGEST_MESSAGE:]
        self._sink.event(
            "recorder-failed", self.steps, message=repr(error)[:LONGEST_MESSAGE], traceback=trace
        )
        self._tell(f"the recorder failed and stepped aside, the training goes on ({error!r})")

    def _tell(self, text: str) -> None:
        warn(f"nanscope: {text}")


def _is_calm_exit(error: BaseException | None) -> bool:
    return isinstance(error, SystemExit) and error.code in (None, 0)


def _message(kind: type[BaseException], error: BaseException | None) -> str:
    try:
        return f"{kind.__name__}: {error}"[:LONGEST_MESSAGE]
    except Exception:  # noqa: BLE001 - the user's __str__ may do anything
        return kind.__name__
