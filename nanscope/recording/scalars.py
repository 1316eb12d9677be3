"""Which scalars a run gets: found out from its first backward pass."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from nanscope.recording.places import MAX_CLASSES
from nanscope.recording.probes import Probes

# Names of autograd nodes that turn logits into a choice between classes. Without one of them between the
# root's output and the loss, a (batch, columns) output may be a regression: its argmax means nothing.
CHOOSING = ("LogSoftmax", "Softmax", "NllLoss", "Logsumexp", "CrossEntropy", "MultiMargin")
ALWAYS = ("loss", "lr", "samples")
OF_LOGITS = ("logits_abs_max", "logits_spread", "logits_margin", "predicted_nan")


def scalar_names(probes: Probes, roots: tuple[Tensor, ...], *, named: bool) -> tuple[tuple[str, ...], bool]:
    """Names of the scalar columns, and whether predicted classes are counted.

    Args:
        roots: the tensors given to the first backward().
        named: whether the user named the logits; then they are what he says.
    """
    logits = next((p.logits for p in probes.passes if p.logits is not None and p.reached), None)
    if logits is None:
        return ALWAYS, False
    classes = logits.shape[-1]
    if classes > MAX_CLASSES or not (named or _chooses(roots, probes)):
        return (*ALWAYS, *OF_LOGITS), False
    return (*ALWAYS, *OF_LOGITS, *(f"predicted_{c}" for c in range(classes))), True


def _chooses(roots: tuple[Tensor, ...], probes: Probes) -> bool:
    return any(name.startswith(CHOOSING) for name in _loss_nodes(roots, probes))


def _loss_nodes(roots: tuple[Tensor, ...], probes: Probes) -> Iterator[str]:
    """Names of the autograd nodes from the loss down to the root's output, that one included."""
    ends = {p.node for p in probes.passes}
    queue = [root.grad_fn for root in roots if root.grad_fn is not None]
    seen = set(queue)
    while queue:
        node = queue.pop()
        yield node.name()
        if node in ends:
            continue
        fresh = {child for child, _ in node.next_functions if child is not None} - seen
        seen |= fresh
        queue += fresh
