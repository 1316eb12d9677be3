"""Remedies, proved: the steps up to the bad one are executed again with one change at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from nanscope.recording.rewind.counters import Counters
from nanscope.recording.rewind.inquiry import Snapshot, clear_gradients, is_harmed
from nanscope.recording.rewind.keeper import held, nonfinite
from nanscope.recording.rewind.rerun import Rerun
from nanscope.recording.rewind.rewrites import rewrite_of
from nanscope.recording.rewind.tape import Program

MOST_EXECUTED = 5_000  # steps, after which no further change is tried: the same on every machine
SECONDS = 120.0  # the same, for steps that take long
FACTORS = (0.5, 0.2, 0.1, 0.03, 0.01, 0.001)  # of the learning rate
HALVINGS = 3  # between the largest factor that survives and the smallest that does not
GROWTH = 10.0  # of the loss before it broke
CALM = 2.0  # by how much a loss may be larger at the end of steps that prevent it
CLIP = 1.0
EPS = 1e-3


@dataclass(frozen=True, slots=True)
class Change:
    """One change to the steps; the fields are those of `Rerun`.

    Attributes:
        id: in the catalogue of remedies.
        text: what is changed.
        lr: factor of the learning rate in the i-th of n steps.
        last: what else is changed, in the bad step only.
    """

    id: str
    text: str
    lr: Callable[[int, int], float] = lambda _i, _n: 1.0
    fields: Mapping[str, Any] = field(default_factory=dict)
    last: Mapping[str, Any] = field(default_factory=dict)


class Trial:
    """Executes the steps since a snapshot again; within a `room`.

    Args:
        programs: the steps, the last one is the bad one.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        snapshot: Snapshot,
        programs: Sequence[Program],
    ) -> None:
        self._model, self._optimizers = model, optimizers
        self._snapshot = snapshot
        self._programs = [program for program in programs if program.number >= snapshot.number]
        self._meant = snapshot.state.nonfinite()
        self._grew = False
        self._executed = self._count = 0
        self._counters = Counters(model)
        self._until = time.monotonic() + SECONDS

    def fields(self, origin: Mapping[str, Any]) -> dict[str, Any] | None:
        """Fields of the event `remedies`; None if the steps do not break again without a change."""
        if not self._programs:
            return None
        losses = self._losses(Change("", ""))
        if self._counters.step_back(self._count, len(self._programs)):
            losses = self._losses(Change("", ""))
        if len(losses) == len(self._programs) and math.isfinite(losses[-1]):
            return None
        sound = [abs(loss) for loss in losses if math.isfinite(loss)]
        self._grew = len(sound) > 1 and max(sound) > GROWTH * sound[0]
        tried = [*self._rates(), *map(self._tried, self._others(origin))]
        numbers = [self._programs[0].number, self._programs[-1].number]
        return {"window": numbers, "tried": [each for each in tried if each is not None]}

    def survives(self, change: Change) -> bool:
        """Whether every loss, gradient and parameter stays finite with a change.

        Where the loss grew before it broke it must not grow with the change, or it would break a little
        later.
        """
        losses = self._losses(change)
        if len(losses) < len(self._programs) or not math.isfinite(losses[-1]):
            return False
        part = max(1, len(losses) // 4)
        first, last = losses[:part], losses[-part:]
        return not self._grew or abs(sum(last)) <= CALM * abs(sum(first))

    def _losses(self, change: Change) -> list[float]:
        """The losses of the steps; up to the first that breaks, whose loss is then given as NaN."""
        self._snapshot.state.put()
        self._counters.put()
        losses: list[float] = []
        last = len(self._programs) - 1
        for i, program in enumerate(self._programs):
            self._executed, self._count = self._executed + 1, i + 1
            clear_gradients(self._model, self._optimizers)
            fields = {**change.fields, **(change.last if i == last else {})}
            try:
                loss = Rerun(self._model, lr=change.lr(i, last + 1), **fields).execute(program)
            except Exception:  # noqa: BLE001 - a change that the step cannot be executed with
                loss = math.nan
            harmed = is_harmed(loss, self._model, self._optimizers)
            tensors = held(self._model, self._optimizers)
            if harmed or nonfinite((id(t), t) for t in tensors) - self._meant:
                return [*losses, math.nan]
            losses.append(loss)
        return losses

    def _tried(self, change: Change) -> dict[str, Any] | None:
        if self._executed > MOST_EXECUTED or time.monotonic() > self._until:
            return None
        return self._told(change, survives=self.survives(change))

    def _told(self, change: Change, *, survives: bool) -> dict[str, Any]:
        outcome = "prevented" if survives else "not-prevented"
        return {"id": change.id, "change": change.text, "outcome": outcome, "steps": len(self._programs)}

    def _rates(self) -> Iterator[dict[str, Any] | None]:
        """The largest learning rate that survives, to about a tenth of a decade."""
        if len(self._programs) < 2:  # the rate of a single step has nothing to do with what broke in it
            return
        rate = self._rate()
        low = next((factor for factor in FACTORS if self.survives(_slower(factor))), None)
        if low is None:
            yield self._told(_slower(FACTORS[-1], rate), survives=False)
            return
        high = min((factor for factor in (1.0, *FACTORS) if factor > low), default=1.0)
        for _ in range(HALVINGS):
            middle = (low * high) ** 0.5
            low, high = (middle, high) if self.survives(_slower(middle)) else (low, middle)
        change, beyond = _slower(low, rate), _slower(high, rate)
        yield self._told(replace(change, text=f"{change.text}, but not {beyond.text}"), survives=True)

    def _rate(self) -> float | None:
        """The learning rate of the bad step, if all parameters have the same."""
        groups = [group for event in self._programs[-1].events for group in event.settings]
        groups = groups or [group for o in self._optimizers for group in o.param_groups]
        rates = {group.get("lr") for group in groups}
        rate = next(iter(rates)) if len(rates) == 1 else None
        return rate if isinstance(rate, float) else None

    def _others(self, origin: Mapping[str, Any]) -> Iterator[Change]:
        parameters = [p for p in self._model.parameters() if p.requires_grad]

        def clip() -> None:
            torch.nn.utils.clip_grad_norm_(parameters, CLIP)

        if len(self._programs) > 1:
            yield Change(
                "clip-gradients", f"clip the gradients to norm {CLIP:g}", fields={"before_update": clip}
            )
            yield Change(
                "warm-up",
                f"warm the learning rate up over {len(self._programs)} steps",
                lambda i, n: (i + 1) / n,
            )
        samples = [row for row in origin.get("samples") or [] if isinstance(row, int)]
        if samples and len(samples) < self._programs[-1].rows:
            yield Change(
                "skip-sample",
                f"leave out row {', '.join(map(str, samples))}",
                last={"without": samples, "axis": origin.get("axis", 0)},
            )
        if any("eps" in group for o in self._optimizers for group in o.param_groups):
            yield Change("larger-eps", f"eps={EPS:g} in the optimizer", fields={"settings": {"eps": EPS}})
        if any(event.context and event.context.autocast for event in self._programs[-1].events):
            yield Change("wider-dtype", "without autocast", fields={"autocast": False})
        safe = rewrite_of(origin)
        if safe is not None:
            yield Change("safe-rewrite", safe.text, fields={"within": safe.mode})


def _slower(factor: float, rate: float | None = None) -> Change:
    """A lower learning rate, as a number where there is but one."""
    text = f"{factor:.2g} of the learning rate" if rate is None else f"lr={factor * rate:.2g}"
    return Change("lower-learning-rate", text, lambda _i, _n: factor)
