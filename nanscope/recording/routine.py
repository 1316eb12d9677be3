"""Routine: how a pass went, so that the next one need only be compared with it, not planned again.

What is compared costs microseconds; the comparison is therefore of lists, made in one go, and it gives up at
the first difference. A pass that went otherwise is looked at in the long way. Most is compared before the
backward pass runs: then nothing is lost yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from operator import attrgetter, itemgetter
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as every_module

from nanscope.recording.arena import Arena
from nanscope.recording.factors import Factored, Factors, Ties, fits, is_product, ties
from nanscope.recording.passes import Pass, UsualPass, await_gradient
from nanscope.recording.places import Places
from nanscope.recording.plan import planned

Tensors = list[Tensor]

# a comprehension is a call more, and this is asked in every step
_SHAPE, _DTYPE, _VERSION, _REQUIRES_GRAD = map(attrgetter, ("shape", "dtype", "_version", "requires_grad"))


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
        witness: a parameter that has a gradient after a pass like this one.
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
        self._factors = factors
        self._backs = {call[0]: (call[2], call[3]) for call in calls}
        self._outs = [call[0] for call in calls]
        self._versions = [call[2] for call in calls]
        self._shapes = [call[1].shape for call in calls]
        self._dtypes = [call[1].dtype for call in calls]
        self._counts = [len(call[4]) for i, call in enumerate(calls) if i not in known]
        self._entering = list(map(_SHAPE, one.entering))
        self._absent = [p for p in places.parameters if p.grad is None]
        self._graded_absent = list(map(_REQUIRES_GRAD, self._absent))
        self._known = {calls[i][0]: bias for i, bias in known.items()}
        direct, small = ([places.parameters[i] for i in part] for part in (self.plan.direct, self.plan.small))
        self._measured = [*direct, *known.values(), *small]
        self._layouts = [p.grad.layout for p in self._measured if p.grad is not None]
        self._first = len(direct)
        self._factored = [p for p in places.parameters if id(p) in {call[2] for call in factored}]
        self.witness = next(iter((*self._measured, *self._factored)), None)
        self._fed = [(one.linears[i][0], where) for i, _, _, where, _ in factored if where not in (None, -1)]
        self._extra = [one.linears[i][0] for i in self.plan.entering]
        products = [linears[one.linears[i][0]] for i, _, _, where, _ in factored if where is not None]
        self._products = [
            _Product(number, module, calls[number][1], waits=self.waits[calls[number][0]])
            for number, module, _, _ in products
        ]
        self._before_all = every_module._global_forward_pre_hooks
        self._graded = [i for i, call in enumerate(calls) if call[1].grad_fn is not None]
        self._ties = self._tied(roots, [call[1] for call in calls]) if factored else None

    def expects(self, usual: UsualPass, roots: Sequence[Tensor]) -> bool:
        """Whether the forward pass went as this one, so that the backward pass that begins now can too."""
        kept = usual.kept
        usual.expected = (
            usual.outs == self._outs
            and list(map(_SHAPE, kept)) == self._shapes
            and list(map(_DTYPE, kept)) == self._dtypes
            and list(map(_SHAPE, usual.entering)) == self._entering
            and (self.logits is None or usual.returned is kept[self.logits])
            and (not self._factored or self._is_factored(usual, roots))
        )
        return usual.expected

    def follow(self, usual: UsualPass) -> tuple[Tensors, Tensors] | None:
        """The tensors to be measured at once and those that may wait, in the order of the plan.

        None if the pass went otherwise than this one, or somebody wrote into what was kept.
        """
        kept, arrived = usual.kept, usual.arrived
        if (
            not usual.expected
            or list(map(_VERSION, kept)) != self._versions
            or list(map(_VERSION, usual.entering)) != usual.written
            or list(map(len, arrived)) != self._counts
        ):
            return None
        gradients: Tensors = []
        for parameter, layout in zip(self._measured, self._layouts, strict=True):
            gradient = parameter.grad
            if gradient is None or gradient.layout is not layout:
                return None
            gradients.append(gradient)
        for parameter in self._absent:
            if parameter.grad is not None:
                return None
        # a second use is added in place, or out of place if the backward pass itself is recorded
        for parameter in self._factored:
            gradient = parameter.grad
            if gradient is None or gradient._version or gradient.requires_grad:
                return None
        extra = map(itemgetter(0), map(usual.fed.__getitem__, self._extra))
        waiting = chain(usual.entering, kept, chain.from_iterable(arrived), gradients[self._first :], extra)
        return gradients[: self._first], list(waiting)

    def _is_factored(self, usual: UsualPass, roots: Sequence[Tensor]) -> bool:
        """Whether gradients will follow from the factors, as far as can be seen without a walk."""
        kept, fed, entered = usual.kept, usual.fed, usual.entering
        for p in self._factored:  # as `eligible`
            if not p.requires_grad or p.grad is not None:
                return False
            if p._backward_hooks or p._post_accumulate_grad_hooks:
                return False
        for i, where in self._fed:
            was = entered[where] if where < len(entered) else kept[where - len(entered)]
            if not fed[i] or fed[i][0] is not was:
                return False
        for product in self._products:
            if not product.made(kept[product.number], fed[product.number]):
                return False
        return (
            not self._before_all  # or what goes in may not be what we have seen; all else the graph shows
            and list(map(_REQUIRES_GRAD, self._absent)) == self._graded_absent
            and self._ties is not None
            and self._tied(roots, kept) == self._ties
            and self._factors.still_sole(roots, self._factored)
        )

    def _tied(self, roots: Sequence[Tensor], outputs: Tensors) -> Ties | None:
        return ties(roots, outputs[self._graded[0]], outputs[self._graded[-1]])

    def unfold(self, usual: UsualPass, *, late: bool) -> Pass:
        """The same as a pass in the long way; `late` if backward() has run already."""
        arrived = iter(usual.arrived)
        made = Pass(usual.rows, usual.entering.copy(), usual.written.copy(), spent=usual.spent, unfolded=True)
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


class _Product:
    """A call of a Linear layer: whether its output is still made of its input and of its own parameters.

    Attributes:
        number: of the call.
    """

    __slots__ = ("_before", "_bias", "_kind", "_module", "_own", "_turned", "_waits", "_weight", "number")

    def __init__(self, number: int, module: nn.Linear, output: Tensor, *, waits: bool) -> None:
        self.number, self._module, self._waits = number, module, waits
        self._weight, self._bias = module.weight, module.bias
        self._own, self._before = module.__dict__, module._forward_pre_hooks
        node: Any = output.grad_fn
        known = node is not None and node.name() == "AddmmBackward0" and module.bias is not None
        self._kind: Any = type(node) if known else None
        self._turned: Any = type(node.next_functions[2][0]) if known else None

    def made(self, output: Tensor, args: tuple[Any, ...]) -> bool:
        """Whether it is; to be asked before the backward pass."""
        if not args:
            return False
        node: Any = output.grad_fn
        entering, hooks = args[0], output._backward_hooks
        if self._before or "forward" in self._own or (hooks and (not self._waits or len(hooks) > 1)):
            return False
        if type(node) is self._kind:
            (added, _), (left, _), (turned, _) = node.next_functions
            if (
                left is entering.grad_fn
                and type(turned) is self._turned
                and getattr(added, "variable", None) is self._bias
                and getattr(turned.next_functions[0][0], "variable", None) is self._weight
            ):
                return True  # most often; what else it may be takes several times as long to say
        module = self._module
        return fits(module, entering, output) and is_product(output, module, entering)
