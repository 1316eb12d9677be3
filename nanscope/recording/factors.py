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
from operator import attrgetter
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules import module as every_module

from nanscope.recording import gram, processes
from nanscope.recording.passes import LinearCall, Pass

WALK_LIMIT = 2_000  # nodes; a larger graph is not worth the walk
WALK_EVERY = 16  # steps, on average
TURNED = "TBackward0"
VIEWS = ("ViewBackward0", "UnsafeViewBackward0")
MOST_TIES = 100  # nodes of a loss; a longer one is not looked at in every step
SMALL_ELEMENTS = 4_096  # the gradient of a smaller parameter is no dearer than its factors
# not 16 bits: autograd rounds the gradient to them, the product of the norms is not rounded
EXACT = (torch.float32, torch.float64)

_GRAD_FN = attrgetter("grad_fn")

Ties = tuple[int, ...]
"""What a loss hangs on: numbers of the nodes between it and the modules, ids of the leaves among them."""

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


def fits(module: nn.Linear, entering: Tensor, output: Tensor) -> bool:
    """Whether all are of the weight's dtype (autocast would round the factors), and nobody else listens."""
    weight, dtype = _own(module, "weight"), output.dtype
    same = dtype in EXACT and entering.dtype is dtype and weight is not None and weight.dtype is dtype
    return same and (output._backward_hooks is None or len(output._backward_hooks) <= 1)


def _own(module: nn.Linear, name: str) -> Tensor | None:
    return module._parameters.get(name)  # as an attribute it is looked for by a function in Python


def is_product(output: Tensor, module: nn.Linear, entering: Tensor) -> bool:
    """Whether the graph says that the output is the input times the layer's own weight, plus its own bias.

    Not so if a hook came between, if the weight is computed or was replaced for this call, if autocast has
    rounded it, or if someone gave the class another forward. To be asked before the backward pass.
    """
    node: Any = output.grad_fn
    weight, bias = _own(module, "weight"), _own(module, "bias")
    viewed = node is not None and node.name() in VIEWS
    if viewed:
        node = node.next_functions[0][0]
    name = "" if node is None else node.name()
    if name == "AddmmBackward0":
        (added, _), (left, _), (turned, _) = node.next_functions
        plain = _is(added, bias) and node._saved_alpha == node._saved_beta == 1
    elif name == "MmBackward0":
        (left, _), (turned, _) = node.next_functions
        plain = bias is None
    else:
        return False
    if viewed and left is not None and left.name() in VIEWS:
        left = left.next_functions[0][0]
    made = entering.grad_fn
    return (
        plain
        and (left is made if made is not None else _is(left, entering))
        and turned is not None
        and turned.name() == TURNED
        and _is(turned.next_functions[0][0], weight)
    )


def _is(node: Any, leaf: Tensor | None) -> bool:
    """Whether an edge of the graph ends at this leaf; there is none if that needs no gradient."""
    if node is None:
        return leaf is None or not leaf.requires_grad
    return getattr(node, "variable", None) is leaf and leaf is not None


class Factors:
    """Decides, before each backward pass, which gradients will follow from the factors of one call.

    That a parameter is used once is seen by walking the autograd graph, which takes longer than all that it
    saves. Therefore only the loss, outside of the modules, is walked every time: a graph that hangs together
    as one walked before is not walked again, except for every sixteenth step or so, chosen by chance. If a
    walk then finds what another had not, such graphs differ in this program, and none is trusted again.

    Attributes:
        valid: ids of the parameters for which it holds in the backward pass that runs now or ran last.
        spotless: whether a gradient that was not awaited always was there.
    """

    def __init__(self) -> None:
        self.valid: frozenset[int] = frozenset()
        self.spotless = True
        self._known: dict[Ties, frozenset[int]] = {}
        self._trusted = True
        self._chance = random.Random(0)  # noqa: S311 - of its own: the user's is not touched
        self._until_walk = 0
        self._are_shared = processes.are_several()  # what arrives in `.grad` is then a mean over all of them

    def begin(self, roots: Sequence[Tensor], passes: Iterable[Pass]) -> None:
        """A backward pass is about to start from `roots`."""
        if self._are_shared:
            return
        every = list(passes)
        linears = [(call, one.calls[call[0]][1]) for one in every for call in one.linears]
        modules = [call[1] for call, output in linears if _is_fit(call, output)]
        held = {id(p): p for m in modules for p in (m.weight, m.bias) if p is not None}
        fit = frozenset([key for key, parameter in held.items() if eligible(parameter)])
        self.valid = fit & self._sole(roots, every) if fit else fit

    def calls(self, passes: Iterable[Pass], where: Mapping[int, int]) -> Iterator[Factored]:
        """Calls from whose factors the gradient of a parameter follows.

        Args:
            where: number of each kept tensor, by id.
        """
        valid, self.valid = self.valid, frozenset()  # of one backward pass only
        linears = [(one.calls[call[0]], call) for one in passes for call in one.linears]
        for i, ((_, output, _, back, _), call) in enumerate(linears):
            _, module, entering, version = call
            if id(module.weight) not in valid or entering._version != version:
                continue
            if not fits(module, entering, output):
                continue
            rows, kept = output.numel() // module.out_features, where.get(id(entering), -1)
            if rows == 1:
                yield i, back, id(module.weight), kept, True
                if module.bias is not None and id(module.bias) in valid:
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
            graded = [output for _, output, *_ in passes[0].calls if output.grad_fn is not None]
            mark = ties(roots, graded[0], graded[-1])
        known = None if mark is None else self._known.get(mark)
        if known is not None:
            self._until_walk -= 1
            if self._until_walk >= 0:
                return known
        return self._walk(roots, mark)

    def _walk(self, roots: Sequence[Tensor], mark: Ties | None) -> frozenset[int]:
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
        self._until_walk -= 1
        if self._until_walk >= 0:
            return True
        self._until_walk = self._chance.randrange(2 * WALK_EVERY)
        self._trusted = {id(parameter) for parameter in parameters} <= sole_uses(roots)
        return self._trusted


def _is_fit(call: LinearCall, output: Tensor) -> bool:
    _, module, entering, _ = call
    large = module.in_features * module.out_features > SMALL_ELEMENTS
    rows = output.numel() // module.out_features
    worth = large and (rows == 1 or gram.pays(rows, *module.weight.shape))
    can = worth and fits(module, entering, output) and untampered(module)
    return can and is_product(output, module, entering)


def ties(roots: Sequence[Tensor], first: Tensor, last: Tensor) -> Ties | None:
    """What a loss hangs on, but for what the modules did between their first and their last output.

    Returns:
        The nodes of the autograd graph that are reached from `roots` without going on from a node made
        between the two outputs: by how much later than the first output they were made, or the ids of leaves.
        None if they cannot be told or are very many.
    """
    queue: list[Any] = list(map(_GRAD_FN, roots))
    if first.grad_fn is None or last.grad_fn is None or None in queue:
        return None
    begin, end = first.grad_fn._sequence_nr(), last.grad_fn._sequence_nr()
    found: list[int] = [len(queue)]
    while queue and len(found) < MOST_TIES:
        node = queue.pop()
        number = node._sequence_nr()
        if begin <= number <= end:
            found.append(number - begin)
            continue
        known = len(queue)
        for below, _ in node.next_functions:
            if below is not None:
                queue.append(below)
        found.append(number - begin if len(queue) > known else id(getattr(node, "variable", None)))
    return None if queue else tuple(found)


def sole_uses(roots: Iterable[Tensor]) -> frozenset[int]:
    """Ids of the leaves that exactly one operation of the graph uses; none if the graph is very large.

    Walks the autograd graph from the tensors given to backward(), so that a second use is seen wherever it
    is: a tied layer, a penalty on the weights inside the loss, a double backward.
    """
    edges: dict[object, int] = {}
    above: dict[object, Any] = {}
    leaves: list[Any] = []
    queue = [root.grad_fn for root in roots if root.grad_fn is not None]
    seen = set(queue)
    while queue:
        user: Any = queue.pop()
        for node, _ in user.next_functions:
            if node is None:
                continue
            above[node] = user
            edges[node] = edges.get(node, 0) + 1
            if node in seen:
                continue
            seen.add(node)
            (queue if node.next_functions else leaves).append(node)
        if len(seen) > WALK_LIMIT:
            return frozenset()
    sole = [leaf for leaf in leaves if edges[leaf] == 1 and hasattr(leaf, "variable")]
    # a double backward uses the transposed weight of the forward once more, not the weight
    return frozenset([id(n.variable) for n in sole if above[n].name() != TURNED or edges[above[n]] == 1])
