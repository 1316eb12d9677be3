"""Routine: how a pass went, so that the next one need only be compared with it, not planned again.

What is compared costs microseconds; the comparison is therefore of lists, made in one go, and it gives up at
the first difference. A pass that went otherwise is looked at in the long way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from nanscope.recording.arena import Arena
from nanscope.recording.factors import Factored, Factors, distance
from nanscope.recording.passes import Pass, UsualPass, await_gradient
from nanscope.recording.places import Places
from nanscope.recording.plan import planned

Tensors = list[Tensor]


class Routine:
    """How a pass went of which every tensor was kept.

    Args:
        one: the pass.
        places: of the model.
        factors, factored: see `nanscope.recording.factors`.
        roots: the tensors given to backward().

    Attributes:
        plan: what the numbers mean. Kept are, in this order, what entered, the outputs, the gradients that
            were awaited, and those that are had from biases.
        waits: of each output place whether its gradient is awaited.
        logits: which output is the logits that the root returned, None if they are none of them.
        has_logits: whether there are any.
        witness: a parameter that had a gradient.
        arena: where all of its tensors can be put aside, None if not, or before it was tried.
    """

    def __init__(
        self,
        one: Pass,
        places: Places,
        factors: Factors,
        factored: Sequence[Factored],
        roots: Sequence[Tensor],
    ) -> None:
        calls = one.calls
        known = factors.known_by_bias(one, factored)
        awaited = [i for i, call in enumerate(calls) if call[4] and i not in known]
        gradients = [parameter.grad for parameter in places.parameters]
        kept = [places.entry] * len(one.entering) + [call[0] for call in calls]
        kept += [calls[i][3] for i in (*awaited, *known)]
        layouts = tuple([None if g is None or not g.numel() else g.layout for g in gradients])
        self.plan = planned(places, ((), tuple(kept), tuple(factored), layouts, ()))
        self.waits = {call[0]: i in awaited for i, call in enumerate(calls)}
        self.arena: Arena | None = None
        self.has_logits = one.logits is not None
        self.logits = next((i for i, call in enumerate(calls) if call[1] is one.logits), None)
        self.witness = next((p for p in places.parameters if p.grad is not None), None)
        self._factors = factors
        self._backs = {call[0]: (call[2], call[3]) for call in calls}
        self._outs = [call[0] for call in calls]
        self._versions = [call[2] for call in calls]
        self._shapes = [call[1].shape for call in calls]
        self._entering = [tensor.shape for tensor, _ in one.entering]
        self._absent = [p for p in places.parameters if p.grad is None]
        self._known = {calls[i][0] for i in known}
        direct, small = ([places.parameters[i] for i in part] for part in (self.plan.direct, self.plan.small))
        self._measured = [*direct, *known.values(), *small]
        self._first = len(direct)
        self._factored = [p for p in places.parameters if id(p) in {call[2] for call in factored}]
        self._fed = [(one.linears[i][0], where) for i, _, _, where, _ in factored if where not in (None, -1)]
        self._extra = [one.linears[i][0] for i in self.plan.entering]
        self._distance = distance(roots, calls[0][1])

    def follow(self, usual: UsualPass, roots: Sequence[Tensor]) -> tuple[Tensors, Tensors] | None:
        """The tensors to be measured at once and those that may wait, in the order of the plan.

        None if the pass went otherwise than this one, or somebody wrote into what was kept.
        """
        kept = usual.kept
        gradients: list[Any] = [parameter.grad for parameter in self._measured]
        if (
            usual.outs != self._outs
            or [tensor._version for tensor in kept] != self._versions
            or [tensor.shape for tensor in kept] != self._shapes
            or (self.logits is not None and usual.returned is not kept[self.logits])
            or (self._absent and any(parameter.grad is not None for parameter in self._absent))
            or True in [gradient is None for gradient in gradients]
            or False in [bool(arrived) for arrived in usual.arrived]
            or distance(roots, kept[0]) != self._distance
            or not self._entered(usual)
        ):
            return None
        waiting = [tensor for tensor, _ in usual.entering] + kept + [arrived[0] for arrived in usual.arrived]
        if self._factored and not self._is_factored(usual, waiting, roots):
            return None
        waiting += gradients[self._first :]
        waiting += [usual.fed[i][0] for i in self._extra]
        return gradients[: self._first], waiting

    def _entered(self, usual: UsualPass) -> bool:
        for (tensor, version), shape in zip(usual.entering, self._entering, strict=False):
            if tensor._version != version or tensor.shape != shape:
                return False
        return len(usual.entering) == len(self._entering)

    def _is_factored(self, usual: UsualPass, waiting: Tensors, roots: Sequence[Tensor]) -> bool:
        """Whether the gradients still follow from the factors, as far as can be seen without a walk.

        A gradient that was there before, or to which a second use was added, has been written into.
        """
        for i, where in self._fed:
            if not usual.fed[i] or usual.fed[i][0] is not waiting[where]:
                return False
        for p in self._factored:
            gradient = p.grad
            if gradient is None or gradient._version or p._backward_hooks:
                return False
        return self._factors.still_sole(roots, self._factored)

    def unfold(self, usual: UsualPass, *, late: bool) -> Pass:
        """The same as a pass in the long way; `late` if backward() has run already."""
        arrived = iter(usual.arrived)
        made = Pass(usual.rows, entering=usual.entering.copy(), spent=usual.spent)
        for out, tensor in zip(usual.outs, usual.kept, strict=True):
            version, back = self._backs[out]
            gradients = next(arrived) if self.waits[out] else []
            if out in self._known and not usual.spent:
                self._make_up(tensor, gradients, late=late)
            made.calls.append((out, tensor, version, back, gradients))
        if isinstance(usual.returned, Tensor) and self.has_logits:
            made.logits, made.version = usual.returned, usual.returned._version
        return made

    def _make_up(self, output: Tensor, gradients: Tensors, *, late: bool) -> None:
        if late:
            self._factors.spotless = False  # its gradient was not awaited, and is lost
        else:
            await_gradient(output, gradients)
