"""What the probes have collected of a step: calls of the root module, one of them perhaps a usual one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nanscope.recording import factors
from nanscope.recording.passes import Pass, UsualPass
from nanscope.recording.places import Places
from nanscope.recording.routine import Routine

MOST_PASSES = 64  # whose graph a second backward pass may still go through, when a step has very many


class Collected:
    """What was collected since `clear`.

    Attributes:
        passes: calls of the root, also that under way; calls of modules outside of it are one more.
        hasty: places whose tensors are overwritten before the step ends. None (at the start) means every
            place: the first step finds out which ones.
        usual: what was collected of a pass that goes as the one before, instead of a `Pass`.
        routine: how that one went; None if the next pass is to be looked at in the long way.
        odd: whether something has happened that the routine does not know.
        transformed: whether the root was called in this step where tensors hold no numbers.
        in_backward: whether a backward pass is running.
    """

    def __init__(self, model: nn.Module, places: Places) -> None:
        self._model, self._places = model, places
        self._handles: list[RemovableHandle] = []
        self._current: UsualPass | None = None  # the pass under way, if it is a usual one so far
        self._waits: Mapping[int, bool] = {}  # of each output place of the usual pass: is a gradient awaited?
        self._pass = Pass()
        self.passes = [self._pass]
        self.usual = UsualPass()
        self.routine: Routine | None = None
        self.hasty: set[int] | None = None
        self.odd = self.transformed = self.in_backward = False

    def clear(self) -> None:
        """Forget what was collected: a step is over."""
        self._current = None
        self.usual.clear()
        if len(self.passes) != 1 or not self._pass.untouched:
            for each in self.passes:
                each.let_go()
            self._pass = Pass()
            self.passes = [self._pass]
        self.odd = self.transformed = False
        self._handles = []

    def spend(self) -> None:
        """What was collected was looked at; gradients may still arrive by another backward pass."""
        for each in self.passes:
            each.spend()
        del self.passes[:-MOST_PASSES]
        self._handles = []

    def spend_usual(self) -> None:
        """The same for the usual pass, which is all that was collected."""
        self.usual.spent = True
        for arrived in self.usual.arrived:
            arrived.clear()

    def unfold(self, *, late: bool = False) -> None:
        """The pass is no usual one after all: it becomes one of many; `late` if backward() has run."""
        usual, routine = self.usual, self.routine
        self.routine = self._current = None
        if not usual.begun or routine is None:
            return
        made = routine.unfold(usual, late=late)
        if not usual.spent:
            made.calls += self._pass.calls
            made.measured += self._pass.measured
            self._pass, self.passes = made, [made]
        else:
            self.passes.insert(0, made)
        usual.clear()

    def begin_backward(self, roots: Sequence[Tensor]) -> None:
        """A backward pass begins: a module called from now on is a checkpoint that runs again."""
        self.in_backward = True
        self._current = None
        usual, routine = self.usual, self.routine
        if usual.begun and (usual.spent or self.odd or routine is None or not routine.expects(usual, roots)):
            self.unfold()
        for arrived in usual.arrived:
            arrived.clear()
        for each in self.passes:
            each.restart(self._places.received)

    def begin_anew(self) -> None:
        """What was looked at in this step does not count: a pass that a backward goes through again does."""
        self.unfold()
        for each in self.passes:
            each.spent = False

    def drop_backward(self) -> None:
        """A backward pass has failed: what it reached counts only if another one goes through it."""
        self.in_backward = False
        self.unfold()
        for each in self.passes:
            each.restart(self._places.received)

    def learn(self) -> None:
        """See which places are overwritten, so that they are measured in time from now on."""
        self.hasty = (self.hasty or set()) | self.overwritten

    def factors(self) -> list[tuple[Tensor, Tensor]]:
        """Gradient of the output and input of every call of a Linear layer that is still kept."""
        usual, found = self.usual, []
        arrived = iter(usual.arrived)
        for out, args in zip(usual.outs, usual.fed, strict=True):
            gradients = next(arrived) if self._waits[out] else []
            if factors.plain_linear(self._places.modules[self._places.keys[out][0]]) and gradients and args:
                found.append((gradients[0], args[0]))
        for one in self.passes:
            kept = [
                (one.calls[number][4], x) for number, _, x, version in one.linears if x._version == version
            ]
            found += [(gradients[0], x) for gradients, x in kept if gradients]
        return found

    def touch(self) -> None:
        """A backward pass went through the model, though nothing was collected."""
        self._pass.touched = True

    @property
    def empty(self) -> bool:
        """Whether nothing was collected since the last look."""
        usual = self.usual.begun and not self.usual.spent
        return not usual and not any(
            p.entering or p.measured or (p.calls and not p.spent) for p in self.passes
        )

    @property
    def reached(self) -> bool:
        """Whether a backward pass went through anything that was collected."""
        return any(each.reached for each in self.passes)

    @property
    def overwritten(self) -> set[int]:
        """Places whose tensors were written into since they were seen."""
        seen = [one for each in self.passes for one in self._seen(each)]
        return {place for place, tensor, version in seen if tensor._version != version}

    def _seen(self, one: Pass) -> Iterator[tuple[int, Tensor, int]]:
        yield from one.checked
        for tensor, version in zip(one.entering, one.written, strict=True):
            yield self._places.entry, tensor, version
        if not one.spent:
            for out, tensor, version, _, _ in one.calls:
                yield out, tensor, version

    def _next(self) -> Pass:
        last = self._pass
        if not self._model.training and not last.spent and not last.reached:
            self.passes.remove(last)  # it was an evaluation that forgot no_grad
        for each in self.passes:
            if each.spent:
                each.strip()
        self._pass = Pass()
        self.passes.append(self._pass)
        return self._pass
