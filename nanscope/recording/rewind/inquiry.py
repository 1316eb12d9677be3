"""Inquiry: execute bad steps again under watch, and put together what is to be told of the origin."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from nanscope.recording import drawn, processes
from nanscope.recording.finite import is_finite
from nanscope.recording.rewind.batch import Batch, batch_of
from nanscope.recording.rewind.counters import Counters, Values
from nanscope.recording.rewind.culprit import culprit
from nanscope.recording.rewind.keeper import Generators, State, held, nonfinite
from nanscope.recording.rewind.rerun import Rerun
from nanscope.recording.rewind.tape import Program

MOST_ROWS = 64
MOST_DRAWN = 1_024  # rows of a batch whose places in the data set are told
ALIKE = 1e-3  # relative difference of two losses of the same step
CHECKED = ("forward", "loss", "backward")  # phases in which a sample can be to blame

BEFORE = "its loss depends on operations before the model was called, which are heard from the next step on"

Keep = Callable[[Program], None]


@dataclass(slots=True, eq=False)
class Snapshot:
    """The state before a step."""

    number: int
    state: State


@dataclass(slots=True)
class Answer:
    """An event for the run file."""

    kind: str
    step: int
    fields: dict[str, Any] = field(default_factory=dict)


class Inquiry:
    """Into what was noticed in a step; within a `room`.

    Args:
        keep: called with the bad step while everything is as it was before it.
        meant: ids of the buffers that are infinite by design.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        noticed: int,
        keep: Keep,
        meant: Collection[int] = (),
    ) -> None:
        self._model, self._optimizers, self._noticed = model, optimizers, noticed
        self._keep, self._meant = keep, frozenset(meant)
        self._began = time.perf_counter()
        self._counters, self._count = Counters(model), 0

    def of_steps(self, programs: Sequence[Program], snapshots: Sequence[Snapshot]) -> Answer:
        """Execute the steps since the last sound snapshot, up to the first that breaks, and watch that."""
        if processes.are_several():
            return self._none(processes.STEPS)
        snapshot = self._sound(snapshots)
        if snapshot is None:
            return self._none("no sound state before the step was kept")
        steps = [program for program in programs if program.number >= snapshot.number]
        answer = self._executed(steps, snapshot)
        if answer.kind != "origin" and self._counters.step_back(max(1, self._count), len(steps)):
            answer = self._executed(steps, snapshot)
        self._counters.restore()
        return answer

    def _executed(self, steps: Sequence[Program], snapshot: Snapshot) -> Answer:
        """Execute the steps from a snapshot on."""
        snapshot.state.put()
        self._counters.put()
        for self._count, program in enumerate(steps, 1):
            if program.lacks:
                return self._none(program.lacks)
            before, numbers = State(self._model, self._optimizers), self._counters.now()
            clear_gradients(self._model, self._optimizers)
            loss = Rerun(self._model).execute(program)
            if _is_other(loss, program.loss):
                what = f"the loss of step {program.number}: {program.loss} live, {loss} again"
                return self._differs(what, program)
            if program.is_open or is_harmed(loss, self._model, self._optimizers) or not self._is_sound():
                return self._at(program, before, numbers)
        what = f"steps {snapshot.number} to {self._noticed} were finite when executed again"
        return self._differs(what, steps[-1] if steps else None)

    def _at(self, program: Program, state: State, numbers: Values) -> Answer:
        """The step that breaks, of those that are executed."""
        begin, self._counters.begin = self._counters.begin, numbers
        answer = self._watched(program, state, None)
        self._counters.begin = begin
        return answer

    def _sound(self, snapshots: Sequence[Snapshot]) -> Snapshot | None:
        """The latest state without anything broken; what was broken from the start is told by the first."""
        found = (s for s in reversed(snapshots) if s.state.nonfinite() <= self._meant)
        return next(found, None) or next((s for s in snapshots if s.number == 0), None)

    def of_step(self, program: Program, state: State, loss: float | None) -> Answer:
        """Execute one step under watch.

        Args:
            state: before it.
            loss: as it was, None if not known.
        """
        answer = self._watched(program, state, loss)
        if answer.kind != "origin" and self._counters.step_back(1, 1):
            answer = self._watched(program, state, loss)
        self._counters.restore()
        return answer

    def _watched(self, program: Program, state: State, loss: float | None) -> Answer:
        if program.lacks:
            return self._none(program.lacks)
        from nanscope.recording.rewind.watch import watch  # noqa: PLC0415 - only a run in trouble needs it

        state.generators = _generators(program, state.generators)
        batch = self._batch(program, state)
        rerun = Rerun(self._model)

        def again() -> None:
            self._put(state)

        again()
        birth = watch(
            lambda: rerun.execute(program),
            self._model,
            self._optimizers,
            inputs=program.inputs,
            targets=program.targets,
            rows=batch.rows,
            axis=batch.axis,
            again=again,
            given=lambda: rerun.given.where if rerun.given is not None else None,
            is_open=program.is_open,
        )
        if birth is None:
            written = ", the inputs were overwritten since" if program.overwritten() else ""
            return self._differs(f"loss: {loss} live, {rerun.loss} again{written}", program)
        data = dict(birth.data)
        if data.get("phase") == "data":
            data["samples"] = sorted(
                {row for tensor in program.inputs for row in batch.broken(tensor)[:MOST_ROWS]}
            )
        elif data.get("phase") in CHECKED:
            data |= self._samples(data, program, state, batch)
        self._put(state)
        self._keep(program)
        data |= self._about(program, data) | {"axis": batch.axis} | _drawn(program, batch)
        return Answer("origin", program.number, data)

    def _samples(
        self, data: Mapping[str, Any], program: Program, state: State, batch: Batch
    ) -> dict[str, Any]:
        """Which samples are to blame; of an overflow those that are far larger than the others."""
        suspects = data.get("samples") or []
        attempt = self._attempt(program, state, batch)
        if suspects or not _is_overflow(data):
            return culprit(suspects, program.rows, attempt)
        given = (*program.inputs, *program.targets)
        odd = sorted({row for tensor in given for row in batch.odd(tensor)[:MOST_ROWS]})
        found = culprit(odd, program.rows, attempt) if odd else {}
        return found | {"samples_how": "far larger than the others"} if found.get("samples_checked") else {}

    def _excuse(self, program: Program | None) -> str:
        """What was not heard of a step, and may make the difference; empty if nothing is known to be."""
        if program is not None and program.reaches_back:
            return BEFORE
        if names := self._counters.names():
            return f"modules keep numbers of their own that change from step to step: {names}"
        return processes.GRADIENTS if processes.are_several() else ""

    def _batch(self, program: Program, state: State) -> Batch:
        def execute() -> None:
            self._put(state)
            Rerun(self._model, updates=False).execute(program)

        batch = batch_of(self._model, program.inputs, program.rows, execute)
        program.rows = batch.rows
        return batch

    def _put(self, state: State) -> None:
        state.put()
        self._counters.put()
        clear_gradients(self._model, self._optimizers)

    def _attempt(self, program: Program, state: State, batch: Batch) -> Any:
        def attempt(rows: Collection[int]) -> bool:
            self._put(state)
            rerun = Rerun(self._model, without=frozenset(rows), axis=batch.axis, updates=False)
            try:
                loss = rerun.execute(program)
            except Exception:  # noqa: BLE001 - shapes that only the whole batch has
                return False
            return not is_harmed(loss, self._model, self._optimizers)

        return attempt

    def _is_sound(self) -> bool:
        return nonfinite((id(t), t) for t in held(self._model, self._optimizers)) <= self._meant

    def _about(self, program: Program, data: Mapping[str, Any]) -> dict[str, Any]:
        """What is known of the step beside the birth."""
        held = dict(self._model.named_parameters())
        named = [held[o["name"]] for o in data.get("operands") or () if o.get("name") in held]
        updates = [event for event in program.events if event.optimizer is not None]
        updates.sort(key=lambda event: not _has(event.optimizer, named))  # the one that updates the operand
        update = next(iter(updates), None)
        optimizer = update.optimizer if update else next(iter(self._optimizers), None)
        group = update.settings[0] if update else (optimizer.param_groups[0] if optimizer else {})
        settings = {key: _plain(value) for key, value in group.items() if key != "params"}
        return {
            "lr": settings.get("lr"),
            "optimizer": type(optimizer).__name__ if optimizer else None,
            "settings": {key: value for key, value in settings.items() if value is not None},
            "rows": program.rows,
            "noticed": self._noticed,
            "steps_back": self._noticed - program.number,
            "seconds": time.perf_counter() - self._began,
            "reproduced": True,
        }

    def _none(self, why: str) -> Answer:
        return Answer("no-rewind", self._noticed, {"why": why})

    def _differs(self, what: str, program: Program | None) -> Answer:
        """It came out otherwise; unless something is known to be missing, that is an answer of its own."""
        if excuse := self._excuse(program):
            return self._none(excuse)
        return Answer("not-reproduced", self._noticed, {"differs": [what]})


def _drawn(program: Program, batch: Batch) -> dict[str, Any]:
    """Which rows of which data set the batch is made of, if that is certain."""
    found = drawn.rows_of(program.inputs, batch.rows, batch.axis) if batch.rows <= MOST_DRAWN else None
    return {} if found is None else {"dataset": found[0], "dataset_rows": found[1]}


def clear_gradients(model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
    """As before the first backward pass of a step."""
    for tensor in held(model, optimizers):
        tensor.grad = None


def is_harmed(loss: float | None, model: nn.Module, optimizers: Iterable[Optimizer]) -> bool:
    """Whether the loss or the gradient of a parameter is not finite."""
    if loss is not None and not math.isfinite(loss):
        return True
    gradients = [p.grad for o in optimizers for group in o.param_groups for p in group["params"]]
    gradients += [p.grad for p in model.parameters()]
    return not all(is_finite(gradient) for gradient in gradients if gradient is not None)


def _generators(program: Program, otherwise: Generators) -> Generators:
    """As they were when the root was first called in a step; `otherwise` what was not noted."""
    context = next((event.context for event in program.events if event.context is not None), None)
    if context is None:
        return otherwise
    return context.rng, context.cuda or otherwise[1], *(context.others or otherwise[2:])


def _is_overflow(data: Mapping[str, Any]) -> bool:
    """Whether finite numbers became infinite: the last straw is no culprit."""
    operands, result = data.get("operands") or [], data.get("result") or {}
    finite = all(
        not operand["nan"] and not operand["inf"] and operand["abs_max"] != 0 for operand in operands
    )
    return finite and not result.get("nan") and not any(operand["zeros"] for operand in operands)


def _is_other(again: float, live: float | None) -> bool:
    """Whether a loss came out otherwise, by more than the order of additions explains."""
    if live is None or not (math.isfinite(live) and math.isfinite(again)):
        return live is not None and math.isfinite(live) != math.isfinite(again)
    return abs(again - live) > ALIKE * max(abs(live), abs(again), 1e-6)


def _has(optimizer: Optimizer | None, parameters: Iterable[Tensor]) -> bool:
    """Whether an optimizer updates one of the parameters."""
    groups = [] if optimizer is None else optimizer.param_groups
    return any(each is p for each in parameters for group in groups for p in group["params"])


def _plain(value: Any) -> Any:
    """A setting as JSON types, None if it is no number."""
    if isinstance(value, Tensor):
        return _plain(value.item()) if value.numel() == 1 else None
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, bool | int | float | str) else None
