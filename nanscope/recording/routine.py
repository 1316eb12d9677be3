"""Routine: how a pass went, so that the next one need only be compared with it, not planned again.

What is compared costs microseconds; the comparison is therefore of lists, made in one go, and it gives up at
the first difference. A pass that went otherwise is looked at in the long way. Most is compared before the
backward pass runs: then nothing is lost yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn.modules import module as every_module

from nanscope.recording.arena import Arena
from nanscope.recording.factors import Factored, Factors, Ties, eligible, fits, is_product, ties
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
        linears = {call[0]: call for call in one.linears}
        gradients = [parameter.grad for parameter in places.parameters]
        kept = [places.entry] * len(one.entering) + [call[0] for call in calls]
        kept += [calls[i][3] for i in (*awaited, *known)]
        layouts = tuple([None if g is None or not g.numel() else g.layout for g in gradients])
        self.plan = planned(places, ((), tuple(kept), tuple(factored), layouts, ()))
        self.waits = {call[0]: i not in known for i, call in enumerate(calls)}
        self.arena: Arena | None = None
        self.has_logits = one.logits is not None
        self.logits = next((i for i, call in enumerate(calls) if call[1] is one.logits), None)
        self.witness = next((p for p in places.parameters if p.grad is not None), None)
        self._factors = factors
        self._backs = {call[0]: (call[2], call[3]) for call in calls}
        self._outs = [call[0] for call in calls]
        self._versions = [call[2] for call in calls]
        self._shapes = [call[1].shape for call in calls]
        self._dtypes = [call[1].dtype for call in calls]
        self._counts = [len(call[4]) for i, call in enumerate(calls) if i not in known]
        self._entering = [tensor.shape for tensor, _ in one.entering]
        self._absent = [p for p in places.parameters if p.grad is None]
        self._frozen = [not p.requires_grad for p in self._absent]
        self._known = {calls[i][0]: bias for i, bias in known.items()}
        direct, small = ([places.parameters[i] for i in part] for part in (self.plan.direct, self.plan.small))
        self._measured = [*direct, *known.values(), *small]
        self._layouts = [None if p.grad is None else p.grad.layout for p in self._measured]
        self._first = len(direct)
        self._factored = [p for p in places.parameters if id(p) in {call[2] for call in factored}]
        self._fed = [(one.linears[i][0], where) for i, _, _, where, _ in factored if where not in (None, -1)]
        self._extra = [one.linears[i][0] for i in self.plan.entering]
        self._products = [linears[one.linears[i][0]] for i, _, _, where, _ in factored if where is not None]
        modules = [call[1] for call in self._products]
        self._between = [m._forward_pre_hooks for m in modules] + [every_module._global_forward_pre_hooks]
        self._owns = [module.__dict__ for module in modules]
        self._graded = [i for i, call in enumerate(calls) if call[1].grad_fn is not None]
        self._ties = self._tied(roots, [call[1] for call in calls]) if factored else None

    def expects(self, usual: UsualPass, roots: Sequence[Tensor]) -> bool:
        """Whether the forward pass went as this one, so that the backward pass that begins now can too."""
        kept = usual.kept
        usual.expected = (
            usual.outs == self._outs
            and [tensor.shape for tensor in kept] == self._shapes
            and [tensor.dtype for tensor in kept] == self._dtypes
            and [tensor.shape for tensor, _ in usual.entering] == self._entering
            and (self.logits is None or usual.returned is kept[self.logits])
            and (not self._factored or self._is_factored(usual, roots))
        )
        return usual.expected

    def follow(self, usual: UsualPass) -> tuple[Tensors, Tensors] | None:
        """The tensors to be measured at once and those that may wait, in the order of the plan.

        None if the pass went otherwise than this one, or somebody wrote into what was kept.
        """
        kept = usual.kept
        gradients: list[Any] = [parameter.grad for parameter in self._measured]
        if (
            not usual.expected
            or [tensor._version for tensor in kept] != self._versions
            or [None if gradient is None else gradient.layout for gradient in gradients] != self._layouts
            or (self._absent and any(parameter.grad is not None for parameter in self._absent))
            or [len(arrived) for arrived in usual.arrived] != self._counts
            or any(tensor._version != version for tensor, version in usual.entering)
            or not self._is_untouched()
        ):
            return None
        waiting = [tensor for tensor, _ in usual.entering] + kept
        waiting += [arrived[0] for arrived in usual.arrived if arrived]
        waiting += gradients[self._first :]
        waiting += [usual.fed[i][0] for i in self._extra]
        return gradients[: self._first], waiting

    def _is_untouched(self) -> bool:
        """Whether nothing was added to the gradients that follow from factors.

        A second use is added in place, or out of place if the backward pass itself is recorded.
        """
        for p in self._factored:
            gradient = p.grad
            if gradient is None or gradient._version or gradient.requires_grad:
                return False
        return True

    def _is_factored(self, usual: UsualPass, roots: Sequence[Tensor]) -> bool:
        """Whether gradients will follow from the factors, as far as can be seen without a walk."""
        kept, fed = usual.kept, usual.fed
        for p in self._factored:
            if not eligible(p):
                return False
        for i in self._extra:
            if not fed[i]:
                return False
        entering = len(usual.entering)
        for i, where in self._fed:
            was = usual.entering[where][0] if where < entering else kept[where - entering]
            if not fed[i] or fed[i][0] is not was:
                return False
        return (
            self._are_products(usual)
            and [not p.requires_grad for p in self._absent] == self._frozen
            and self._ties is not None
            and self._tied(roots, kept) == self._ties
            and self._factors.still_sole(roots, self._factored)
        )

    def _are_products(self, usual: UsualPass) -> bool:
        kept, fed = usual.kept, usual.fed
        if any(self._between) or True in ["forward" in own for own in self._owns]:
            return False  # what goes in may not be what we have seen; all else the graph shows
        for number, module, _, _ in self._products:
            output, entering = kept[number], fed[number][0]
            if output._backward_hooks and not self.waits[self._outs[number]]:
                return False
            if not (fits(module, entering, output) and is_product(output, module, entering)):
                return False
        return True

    def _tied(self, roots: Sequence[Tensor], outputs: Tensors) -> Ties | None:
        return ties(roots, outputs[self._graded[0]], outputs[self._graded[-1]])

    def unfold(self, usual: UsualPass, *, late: bool) -> Pass:
        """The same as a pass in the long way; `late` if backward() has run already."""
        arrived = iter(usual.arrived)
        made = Pass(usual.rows, entering=usual.entering.copy(), spent=usual.spent, unfolded=True)
        for out, tensor in zip(usual.outs, usual.kept, strict=True):
            version, back = self._backs[out]
            gradients = next(arrived) if self.waits[out] else []
            if out in self._known:
                made.touched |= late and self._known[out].grad is not None
                self._make_up(tensor, gradients, late=late)
            made.calls.append((out, tensor, version, back, gradients))
        if isinstance(usual.returned, Tensor) and self.has_logits:
            made.logits, made.version = usual.returned, usual.returned._version
        return made

    def _make_up(self, output: Tensor, gradients: Tensors, *, late: bool) -> None:
        if late or output._backward_hooks:  # a hook of the user's would change it before ours
            self._factors.spotless = False  # its gradient was not awaited, and is lost
        else:
            await_gradient(output, gradients)
