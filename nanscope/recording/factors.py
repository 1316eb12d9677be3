"""The norm of a Linear layer's weight gradient without a pass over it.

With the gradient D of the layer's output, shape (rows, out), and its input X, shape (rows, in), the gradient
of the weight is D'X and that of the bias is the sum of D's rows. With one row the norm of the first is
exactly |D| |X| (Goodfellow 2015, arXiv:1510.01799), two short vectors instead of `out * in` elements, and
the second is D itself. With few rows see `nanscope.recording.gram`.

It holds only where this product is the whole gradient that arrives in `weight.grad`. `Factors` sees to that.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules import module as every_module

from nanscope.recording import gram
from nanscope.recording.passes import LinearCall, Pass

WALK_LIMIT = 2_000  # nodes; a larger graph is not worth the walk
WALK_EVERY = 16  # steps, on average
SMALL_ELEMENTS = 4_096  # the gradient of a smaller parameter is no dearer than its factors

Factored = tuple[int, int, int, int | None, bool]
"""A linear call: its number, place of the arriving gradient, id of the parameter (weight or bias); of a
weight which kept tensor went in (-1 if none of them), None of a bias; whether there was but one row."""


def plain_linear(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether this is torch's own Linear layer with its own weight (a parametrised one is computed)."""
    return type(module) is nn.Linear and "weight" in module._parameters


def untampered(module: nn.Module) -> bool:
    """Whether nothing can come between the layer's input and output and those that a probe has seen."""
    return not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
        or every_module._has_any_global_hook()  # type: ignore[no-untyped-call]
    )


def eligible(parameter: Tensor) -> bool:
    """Whether `parameter.grad` after this backward will be its gradient alone, unchanged by any hook."""
    return (
        parameter.requires_grad
        and parameter.grad is None
        and not parameter._backward_hooks
        and not parameter._post_accumulate_grad_hooks
    )


def _fits(call: LinearCall, output: Tensor) -> bool:
    """Whether all are of the weight's dtype (autocast would round the factors), and nobody else listens."""
    _, module, entering, _ = call
    same = entering.dtype == module.weight.dtype == output.dtype
    return same and (output._backward_hooks is None or len(output._backward_hooks) <= 1)


class Factors:
    """Decides, before each backward pass, which gradients will follow from the factors of one call.

    That a parameter is used once is seen by walking the autograd graph, which takes longer than all that it
    saves. Therefore the walk is skipped for a graph of as many nodes, at the same modules, as one walked
    before, except for every sixteenth step or so, chosen by chance. If a walk then finds what another had
    not, graphs of one size differ in this program, and none is trusted again.

    Attributes:
        valid: ids of the parameters for which it holds in the backward pass that runs now or ran last.
        spotless: whether a gradient that was not awaited always was there.
    """

    def __init__(self) -> None:
        self.valid: frozenset[int] = frozenset()
        self.spotless = True
        self._known: dict[int, frozenset[int]] = {}
        self._trusted = True
        self._chance = random.Random(0)  # noqa: S311 - of its own: the user's is not touched
        self._until_walk = 0

    def begin(self, roots: Sequence[Tensor], passes: Iterable[Pass]) -> None:
        """A backward pass is about to start from `roots`."""
        self.valid = frozenset()
        live = [one for one in passes if one.linears]
        modules = [module for one in live for _, module, _, _ in one.linears if _is_large(module)]
        held = {id(p): p for m in modules if untampered(m) for p in (m.weight, m.bias) if p is not None}
        fit = frozenset([key for key, parameter in held.items() if eligible(parameter)])
        if fit:
            self.valid = fit & self._sole(roots, live)

    def calls(self, passes: Iterable[Pass], where: Mapping[int, int]) -> Iterator[Factored]:
        """Calls from whose factors the gradient of a parameter follows.

        Args:
            where: number of each kept tensor, by id.
        """
        linears = [(one.calls[call[0]], call) for one in passes for call in one.linears]
        for i, ((_, output, _, back, _), call) in enumerate(linears):
            _, module, entering, version = call
            if id(module.weight) not in self.valid or entering._version != version or not _fits(call, output):
                continue
            rows, kept = output.numel() // module.out_features, where.get(id(entering), -1)
            if rows == 1:
                yield i, back, id(module.weight), kept, True
                if module.bias is not None and id(module.bias) in self.valid:
                    yield i, back, id(module.bias), None, True
            elif kept >= 0 and gram.pays(rows, *module.weight.shape) and output.dtype is torch.float32:
                yield i, back, id(module.weight), kept, False

    def known_by_bias(self, one: Pass, factored: Iterable[Factored]) -> dict[int, Tensor]:
        """Numbers of the calls whose output has the gradient of the layer's bias, with the biases."""
        keys = {key for _, _, key, _, alone in factored if alone}
        if not self.spotless:
            return {}
        return {number: m.bias for number, m, _, _ in one.linears if {id(m.weight), id(m.bias)} <= keys}

    def _sole(self, roots: Sequence[Tensor], passes: Sequence[Pass]) -> frozenset[int]:
        mark = None
        if self._trusted and len(passes) == 1:
            mark = distance(roots, passes[0].calls[0][1])
        known = None if mark is None else self._known.get(mark)
        if known is not None and not self._is_walk_due():
            return known
        return self._walk(roots, mark)

    def _is_walk_due(self) -> bool:
        self._until_walk -= 1
        return self._until_walk < 0

    def _walk(self, roots: Sequence[Tensor], mark: int | None) -> frozenset[int]:
        self._until_walk = self._chance.randrange(2 * WALK_EVERY)
        found = sole_uses(roots)
        if mark is not None:
            self._trusted = self._known.get(mark) in (None, found)
            self._known[mark] = found
        return found

    def still_sole(self, roots: Sequence[Tensor], parameters: Iterable[Tensor]) -> bool:
        """Whether parameters that were used once, in a graph of the same size, are so still."""
        if not self._trusted:
            return False
        if not self._is_walk_due():
            return True
        self._until_walk = self._chance.randrange(2 * WALK_EVERY)
        self._trusted = {id(parameter) for parameter in parameters} <= sole_uses(roots)
        return self._trusted


def _is_large(module: nn.Linear) -> bool:
    return module.in_features * module.out_features > SMALL_ELEMENTS


def distance(roots: Sequence[Tensor], first: Tensor) -> int | None:
    """How many nodes of the graph were made between a module's output and the loss."""
    if len(roots) != 1 or roots[0].grad_fn is None or first.grad_fn is None:
        return None
    return int(roots[0].grad_fn._sequence_nr() - first.grad_fn._sequence_nr())


def sole_uses(roots: Iterable[Tensor]) -> frozenset[int]:
    """Ids of the leaves that exactly one operation of the graph uses; none if the graph is very large.

    Walks the autograd graph from the tensors given to backward(), so that a second use is seen wherever it
    is: a tied layer, a penalty on the weights inside the loss, a double backward.
    """
    edges: dict[object, int] = {}
    leaves: list[Any] = []
    queue = [root.grad_fn for root in roots if root.grad_fn is not None]
    seen = set(queue)
    while queue:
        below = queue.pop().next_functions
        for node, _ in below:
            if node is None:
                continue
            edges[node] = edges.get(node, 0) + 1
            if node in seen:
                continue
            seen.add(node)
            (queue if node.next_functions else leaves).append(node)
        if len(seen) > WALK_LIMIT:
            return frozenset()
    return frozenset([id(n.variable) for n in leaves if edges[n] == 1 and hasattr(n, "variable")])
