"""The norm of a Linear layer's weight gradient without a pass over it.

At batch size 1 the gradient is the outer product of the gradient D of the layer's output and the layer's
input X, so its Frobenius norm is exactly |D| |X| (Goodfellow 2015, arXiv:1510.01799): two short vectors
instead of `out * in` elements; the gradient of the bias is D itself. It holds only where this product is the
whole gradient; `eligible` and `sole_uses` see to that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

WALK_LIMIT = 2_000  # nodes; a larger graph is not worth the walk


def plain_linear(module: nn.Module) -> bool:
    """Whether this is torch's own Linear layer with its own weight (a parametrised one is computed)."""
    return type(module) is nn.Linear and "weight" in module._parameters


def one_row(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> bool:
    """Whether the call had a single row, all in the weight's dtype (autocast would round the factors)."""
    if not args or output.numel() != module.out_features:
        return False
    entering, weight = args[0], module.weight
    return isinstance(entering, Tensor) and entering.dtype == weight.dtype == output.dtype


def eligible(weight: Tensor) -> bool:
    """Whether `weight.grad` after this backward will be this backward's gradient, unchanged by any hook."""
    hooked = weight._backward_hooks or weight._post_accumulate_grad_hooks
    return weight.requires_grad and weight.grad is None and not hooked


def sole_uses(roots: Iterable[Tensor], weights: Sequence[Tensor]) -> set[int]:
    """Ids of the weights that exactly one operation of the graph uses.

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
            return set()
    wanted = {id(weight) for weight in weights}
    return {id(leaf.variable) for leaf in leaves if edges[leaf] == 1 and hasattr(leaf, "variable")} & wanted
