"""The norm of a Linear layer's weight gradient without a pass over it.

At batch size 1 the gradient is the outer product of the gradient D of the layer's output and the layer's
input X, so its Frobenius norm is exactly |D| |X| (Goodfellow 2015, arXiv:1510.01799): two short vectors
instead of `out * in` elements. It holds only where this product is the whole gradient; `eligible` and
`sole_uses` see to that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

# From here on a pass over the gradient (0.07 ns an element on one core, measured) costs more than the factors
# (about 10 us with the checks). The choice only matters for speed, never for the value.
WORTHWHILE_ELEMENTS = 150_000
WALK_LIMIT = 2_000  # nodes; a larger graph is not worth the walk


def worthwhile(module: nn.Module, inputs: tuple[object, ...], output: Tensor) -> bool:
    """Whether the factors of this Linear call cost less than a direct norm of its weight gradient."""
    if type(module) is not nn.Linear or "weight" not in module._parameters:
        return False
    entering = inputs[0] if inputs else None
    if not isinstance(entering, Tensor) or not (entering.dtype == module.weight.dtype == output.dtype):
        return False
    one_row = entering.numel() == module.in_features
    return one_row and module.in_features * module.out_features > WORTHWHILE_ELEMENTS


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
    queue = [root.grad_fn for root in roots if root.grad_fn is not None]
    seen = set(queue)
    while queue:
        for node, _ in queue.pop().next_functions:
            if node is None:
                continue
            edges[node] = edges.get(node, 0) + 1
            if node not in seen:
                seen.add(node)
                queue.append(node)
        if len(seen) > WALK_LIMIT:
            return set()
    wanted = {id(weight) for weight in weights}
    once = (getattr(node, "variable", None) for node, uses in edges.items() if uses == 1)
    return {id(leaf) for leaf in once if id(leaf) in wanted}
