"""Watch one phase of one test; what was trained in it and what was not finite is known at its end."""

from __future__ import annotations

import warnings
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from nanscope.plugin.sighting import Sighting
from nanscope.plugin.strays import Strays, all_finite, kinds_of
from nanscope.recording.base import BaseRecorder, recording
from nanscope.recording.discovery import Call, Discovery, Found
from nanscope.recording.glance import Fields, glance
from nanscope.recording.light.recorder import LightRecorder, record_lightly
from nanscope.recording.record import record
from nanscope.recording.sink import KeepRun

MOST_GLANCES = 4  # calls that are executed again in one phase

_sick: weakref.WeakValueDictionary[int, nn.Module] = weakref.WeakValueDictionary()
"""Models that a failure was charged for: what they are good for afterwards is no other test's fault."""


@dataclass(frozen=True, slots=True)
class _End:
    """How a recorder was left.

    Attributes:
        steps: that have ended.
        backwards: passes that went through the model.
        told: what was not finite in an optimizer's state.
        is_sound: whether all parameters are finite.
    """

    steps: int
    backwards: int
    told: str
    is_sound: bool


class Watch:
    """Of one phase of one test, between `begin` and `end`.

    Args:
        path: where run files go; further ones get numbers.
        keep: which runs leave one; where only trouble does, the light recorder is enough.
    """

    def __init__(self, path: Path, keep: KeepRun) -> None:
        self._path, self._keep = path, keep
        self._discovery = Discovery(self._open, look=self._look, closing=self._close)
        self._strays = Strays(self._is_known)
        self._glanced: dict[int, nn.Module] = {}
        self._orphans: list[tuple[nn.Module, Fields]] = []
        self._waiting: dict[int, tuple[int, Fields]] = {}
        self._ends: list[_End] = []

    def begin(self) -> None:
        """Watch from now on."""
        self._discovery.__enter__()
        self._strays.attach()

    def end(self, error: BaseException | None = None) -> tuple[list[Sighting], list[Path]]:
        """Watch no more.

        Returns:
            What was not finite, and the other run files.
        """
        self._strays.remove()
        kind, trace = (None, None) if error is None else (type(error), error.__traceback__)
        with warnings.catch_warnings():  # nobody here has asked for a training
            warnings.filterwarnings("ignore", "nanscope: no optimizer step was seen", RuntimeWarning)
            self._discovery.__exit__(kind, error, trace)
        seen, healthy = [], []
        for found, end in zip(self._discovery.found, self._ends, strict=True):
            if found.trouble is not None or end.told or _is_harm(found, end):
                seen.append(Sighting(found.name, found.path, end.told, found.steps))
            elif found.path is not None:
                healthy.append(found.path)
        return [*seen, *(self._recorded(*orphan) for orphan in self._orphans), *self._strays.seen], healthy

    # -- models ---------------------------------------------------------------------------------------

    def _open(self, model: nn.Module) -> BaseRecorder | None:
        if _is_sick(model):
            return None
        if self._keep == "trouble":
            return record_lightly(model, self._path)
        return record(model, None, self._path, keep_run=self._keep)

    def _close(self, recorder: BaseRecorder) -> None:
        """The last look, before its run file is finished."""
        if recorder.is_active and recorder.is_under_way:  # gradients that no optimizer has taken count, too
            if isinstance(recorder, LightRecorder):
                recorder.leave_step()
            else:
                recorder.step(lambda: None)
        backwards, fields = self._waiting.pop(id(recorder), (-1, {}))
        if recorder.origin is None and recorder.trouble is None and backwards == recorder.backwards:
            recorder.tell("origin", **fields)  # no backward pass has shown that it does no harm
        told = "" if recorder.trouble or recorder.origin else _broken_state(recorder)
        if told:
            recorder.tell("optimizer-state", told=told)
        if told or recorder.trouble or recorder.origin:
            _sick[id(recorder.model)] = recorder.model
        is_sound = all_finite(list(recorder.model.parameters()))
        self._ends.append(_End(recorder.steps, recorder.backwards, told, is_sound))

    def _is_known(self, optimizer: Optimizer) -> bool:
        """Whether a recorder follows it, or what it steps was broken before."""
        if any(recorder.takes(optimizer) for recorder in recording()):
            return True
        stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        return any(id(parameter) in stepped for sick in _sick.values() for parameter in sick.parameters())

    # -- calls that belong to no training -------------------------------------------------------------

    def _look(self, call: Call, output: Any) -> None:
        if id(call.module) in self._glanced or len(self._glanced) >= MOST_GLANCES:
            return
        fields = glance(call, output)
        if fields is None or (fields["phase"] == "init" and _is_sick(call.module)):
            return
        self._glanced[id(call.module)] = call.module
        if call.recorder is None:
            self._orphans.append((call.module, fields))
        else:
            self._waiting[id(call.recorder)] = call.recorder.backwards, fields

    def _recorded(self, module: nn.Module, fields: Fields) -> Sighting:
        """A run file for a call that no recorder followed."""
        with record(module, (), self._path, keep_run="trouble") as recorder:
            recorder.tell("origin", **fields)
        _sick[id(module)] = module
        return Sighting(type(module).__name__, recorder.path)


def _is_harm(found: Found, end: _End) -> bool:
    """Whether it matters what was found in a run of which no step was bad as far as the rows tell.

    What a test itself puts into a model that it does not train is its own affair, and a step that a gradient
    scaler has skipped is none that was bad.
    """
    if not end.is_sound:
        return True
    if found.noticed is None or (found.origin is None and not end.backwards):
        return False
    if found.origin is not None and found.origin.get("phase") == "data":
        return False
    return not found.scaled or found.noticed >= end.steps


def _is_sick(model: nn.Module) -> bool:
    return _sick.get(id(model)) is model and not all_finite([*model.parameters(), *model.buffers()])


def _broken_state(recorder: BaseRecorder) -> str:
    """What an optimizer keeps of a parameter and is not finite, in words; empty if nothing."""
    names = {id(parameter): name for name, parameter in recorder.model.named_parameters()}
    for optimizer in recorder.optimizers:
        for parameter, state in optimizer.state.items():
            for key, value in state.items():
                is_like = isinstance(value, Tensor) and value.shape == getattr(parameter, "shape", None)
                if is_like and not all_finite([value]):
                    what, kind = names.get(id(parameter), "a parameter"), type(optimizer).__name__
                    return f"{' and '.join(sorted(kinds_of(value)))} in `{key}` that {kind} keeps of {what}"
    return ""
