"""The light recorder: what the rewind needs of each step, and a look at the loss and the gradients.

    forward of the root    the rewind keeps what goes in, and listens to the loss
    backward()             when it returns, the loss and the norms of the gradients are looked at
    optimizer.step()       when it returns, the step is over

Parameters are looked at in a bad step, and after the last: what an update has broken shows in the loss of the
next step, whose rewind goes back as far as it has to.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Self

from torch import Tensor, nn
from torch.optim import Optimizer

from nanscope.recording.base import BaseRecorder
from nanscope.recording.ledger import Trouble
from nanscope.recording.light.entrance import Entrance
from nanscope.recording.light.history import Brief, History, row_of
from nanscope.recording.light.look import Look, all_finite, exact, loss_of
from nanscope.recording.places import Layout
from nanscope.recording.probes import Probes
from nanscope.recording.rows import Step
from nanscope.recording.scalars import ALWAYS
from nanscope.store.layout import DEFAULT_BUDGET
from nanscope.values import Phase

MOST_CLOSE_LOOKS = 8  # at bad steps; what follows is an echo of those


def record_lightly(model: nn.Module, path: Path) -> LightRecorder:
    """A recorder of every optimizer that steps the model; it leaves a run file where there is trouble."""
    return LightRecorder(
        model,
        None,
        path,
        on_nonfinite="record",
        config={},
        capacity=None,
        budget=DEFAULT_BUDGET,
        keep_run="trouble",
        logits=None,
        rewind=True,
        keep_batch=True,
        verify_remedies=False,
    )


class LightRecorder(BaseRecorder):
    """Records the training in its `with` block; made by `record_lightly`."""

    def __enter__(self) -> Self:
        self._trouble: Trouble | None = None
        self._history = History()
        self._losses: list[float | None] = []  # of the backward passes of the step under way
        self._norms: list[float] = []  # after the last of them
        self._is_bad, self._close_looks = False, 0
        super().__enter__()
        self._sink.open(lambda: self._header(self._layout()), self._room)
        return self

    def _watch_modules(self) -> Probes:
        self._look = Look(self._places.parameters)
        return Entrance(
            self._model, self._places, fail=self._step_aside, pause=self._pause, renew=self._renew
        )

    def _write_down(self, *, wait: bool = False) -> None:
        """Steps wait in memory until the end, which tells whether they are wanted."""

    def _layout(self) -> Layout:
        return Layout.of(self._places, self._places.sites({}), ALWAYS)

    # -- what others may ask --------------------------------------------------------------------------

    @property
    def trouble(self) -> Trouble | None:
        """The first non-finite value that reached a loss, a gradient or a parameter; None so far."""
        return self._trouble

    @property
    def is_under_way(self) -> bool:
        """Whether a backward pass was made in a step that has not ended."""
        return bool(self._losses)

    @property
    def _under_way(self) -> bool:
        return bool(self._losses) or self._rewinder.is_under_way

    # -- a step ---------------------------------------------------------------------------------------

    def _prepare(self, roots: tuple[Tensor, ...]) -> None:
        if self._updates.begun:
            self._end_step()
        if self._losses and self._look.is_empty:
            self._losses, self._is_bad = [], False  # those of the passes before were thrown away
        self._rewinder.begin_backward(roots)
        self._probes.in_backward = True
        self._scale = self._scalers.scale_of(roots) if self._scalers.seen else None
        self._look.begin()

    def _measure(self, roots: tuple[Tensor, ...]) -> None:
        self._probes.in_backward = False
        if roots and not self._look.is_reached():
            return  # a loss of another model
        parameters, norms = self._places.parameters, self._look.norms()
        loss = loss_of(roots)
        bad = loss is not None and not math.isfinite(loss)
        bad = bad or not all_finite(norms, [parameter.grad for parameter in parameters])
        self._losses.append(loss)
        self._norms, self._is_bad = norms, bad
        self._backwards += 1
        self._step.scale = self._scale
        if self._by_hand.wanted:
            self._by_hand.remember(parameters)
        if bad:
            self._tell_state()
        suspect = bad and not (self._scale is not None and loss is not None and math.isfinite(loss))
        self._rewinder.end_backward(loss, suspect=suspect)

    def _before_update(self, optimizer: Optimizer) -> None:
        if not self._losses and not self._look.is_empty:
            self._scale = None
            self._measure(())  # the gradients came by another way than backward()
        self._rewinder.begin_update(optimizer)

    def leave_step(self) -> None:
        """The step under way is over, and no other follows: what was made in it has been looked at."""
        self._rewinder.leave_step()
        self._guard(self._end_step)()

    def _end_step(self) -> None:
        brief = self._brief()
        self._rewinder.end_step()
        self._history.add(brief)
        self.steps += 1
        self._step = Step(self.steps)
        self._updates.clear()
        if brief.is_bad and self._trouble is None:
            self._trouble = _trouble_of(brief)
        self._losses, self._norms, self._is_bad = [], [], False
        if self._trouble is not None and not self._rewinder.done:
            self._rewinder.trouble(brief.number)
        if self._scalers.seen and not brief.is_bad:
            self._state_told = False  # a skipped update is no reason not to look again

    def _brief(self) -> Brief:
        """What is known of the step that ends."""
        step, known = self._step, [loss for loss in self._losses if loss is not None]
        loss = sum(known) if known else None
        brief = Brief(step.number, time.perf_counter() - self._zero, loss, self._norms, step.scalars)
        if self._scalers.seen:
            brief.scalars |= {name: float(value) for name, value in self._scalers.take().items()}
            brief.scale = 1.0 if step.scale is None else float(step.scale) or 1.0
        brief.is_bad = self._is_bad
        if self._is_bad and self._close_looks < MOST_CLOSE_LOOKS:
            self._close_looks += 1
            parameters = self._places.parameters
            brief.gradients, brief.weights = exact([p.grad for p in parameters]), exact(parameters)
        return brief

    # -- the run file ---------------------------------------------------------------------------------

    def _write_the_rest(self) -> None:
        if self._trouble is not None:
            self._sink.need()
        if self._sink.waits:
            return
        layout = self._layout()
        for step in self._history:
            row = row_of(step, layout, self._places)
            for name in step.scalars.keys() - layout.scalars.keys():
                if (column := self._sink.column(name)) is not None:
                    row[column] = step.scalars[name]
            self._sink.append(step.number, step.time, row, more=True)


def _trouble_of(step: Brief) -> Trouble | None:
    """What is wrong with a bad step; None of one that a gradient scaler has skipped as it seeks its level."""
    is_loss = step.loss is not None and not math.isfinite(step.loss)
    if step.scalars.get("skipped", 0.0) >= 1 and not is_loss:
        return None
    return Trouble(step.number, Phase.LOSS if is_loss else Phase.BACKWARD, None)
