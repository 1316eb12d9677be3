"""Numbers about tensors: norms in one batch, exact counts where a norm is not finite, logits, live units.

Everything here returns tensors on the device of its input and synchronises with nothing, except `examine`,
which is for the rare step that holds a non-finite value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 16_384  # elements
LONG = 1 << 16  # elements; of more torch's float32 norm may be off by 1e-5, of 8 million by 2e-4


@dataclass(frozen=True, slots=True)
class Exact:
    """One tensor looked at closely.

    `l2` is over all elements in float64: NaN or inf only if an element is, or if float64 itself overflows.
    """

    l2: float
    nan_count: int
    inf_count: int


def strided(tensor: Tensor) -> Tensor:
    """The tensor's own numbers as a real, strided tensor (no copy if it can be); call it under no_grad."""
    if tensor.layout is torch.strided and not tensor.is_complex():
        return tensor
    if tensor.layout is not torch.strided:
        tensor = tensor.coalesce().values()
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def norms(tensors: Sequence[Tensor]) -> Tensor:
    """Euclidean norms of all tensors in one batched call.

    Args:
        tensors: real strided tensors of any shape and floating dtype.

    Returns:
        Shape (len(tensors),), float32, or float64 if any tensor is float64: a 16-bit accumulator would
        overflow at 65504.
    """
    wide = any(t.dtype is torch.float64 for t in tensors)
    dtype = torch.float64 if wide else torch.float32
    long = [_is_long(tensor) for tensor in tensors]
    small = [tensor for tensor, is_long in zip(tensors, long, strict=True) if not is_long]
    parts = iter(torch._foreach_norm(small, 2, dtype=dtype)) if small else iter(())
    found = [
        _long_norm(tensor, dtype) if is_long else next(parts)
        for tensor, is_long in zip(tensors, long, strict=True)
    ]
    home = found[0].device
    return torch.stack([part.to(home, non_blocking=True) for part in found])


def _is_long(tensor: Tensor) -> bool:
    """Whether torch would lose digits; with strides it adds one element after the other."""
    elements = tensor.numel()
    return elements > BLOCK and not tensor.is_cuda and (elements > LONG or not tensor.is_contiguous())


def _long_norm(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The norm of a long tensor on the CPU, where torch adds one after the other: block by block."""
    flat = _flat(tensor)
    whole = flat.numel() // BLOCK * BLOCK
    found = torch.linalg.vector_norm(flat[:whole].view(-1, BLOCK), dim=1, dtype=dtype)
    if whole < flat.numel():
        found = torch.cat((found, torch.linalg.vector_norm(flat[whole:], dtype=dtype)[None]))
    together: Tensor = torch.linalg.vector_norm(found, dtype=torch.float64)
    return together.to(dtype)


def _flat(tensor: Tensor) -> Tensor:
    """All elements in one dimension, in any order, without a copy if there are no holes between them."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride != expected:
            return tensor.reshape(-1)
        expected *= size
    return tensor.as_strided((tensor.numel(),), (1,))


def peaks(tensors: Sequence[Tensor]) -> Tensor:
    """Largest absolute values of real, strided tensors, none empty; shape (len(tensors),), at least float32.

    By the extremes: torch's own inf norm takes forty times as long on a large tensor.
    """
    extremes = [torch.aminmax(tensor) for tensor in tensors]
    found = [torch.maximum(-low, high) for low, high in extremes]
    wide = any(t.dtype is torch.float64 for t in found)
    home = found[0].device
    return torch.stack([peak.to(home, torch.float64 if wide else torch.float32) for peak in found])


def examine(tensor: Tensor) -> Exact:
    """Count NaN and inf and take the norm in float64: the truth about a tensor whose fast norm overflowed."""
    values = strided(tensor)
    return Exact(
        l2=float(torch.linalg.vector_norm(values, dtype=torch.float64)),
        nan_count=int(torch.isnan(values).sum()),
        inf_count=int(torch.isinf(values).sum()),
    )


def logit_stats(logits: Tensor, *, count: bool) -> Tensor:
    """What logits predict.

    Args:
        logits: shape (steps, rows, classes), two classes or more.
        count: whether to count the predicted classes.

    Returns:
        Shape (steps, 4) or (steps, 3 + classes + 1): largest absolute logit; sum over rows of the margin
        between the best and the second best logit; rows that hold a NaN; rows predicted as each class, if
        asked for; rows. The prediction is `argmax`, which takes index 0 of an all-NaN row.
    """
    steps, rows, classes = logits.shape
    logits = logits.detach().float()
    best = logits.topk(2, dim=2).values
    head = torch.stack(
        (
            logits.abs().amax(dim=(1, 2)),
            (best[..., 0] - best[..., 1]).sum(1),
            best[..., 0].isnan().sum(1),  # NaN is the largest value to topk
        ),
        dim=1,
    )
    tail = logits.new_full((steps, 1), rows)
    if not count:
        return torch.cat((head, tail), dim=1)
    predicted = logits.argmax(2)
    counts = logits.new_zeros(steps, classes).scatter_add_(1, predicted, logits.new_ones(steps, rows))
    return torch.cat((head, counts, tail), dim=1)


def unit_maxima(output: Tensor) -> Tensor:
    """The largest output of each unit over all samples: of a rectified unit, zero if it never was active.

    A unit is a channel (dimension 1) of an image-like output (4 dimensions or more), else an entry of the
    last dimension.

    Returns:
        Shape (units,), the output's dtype.
    """
    output = output.detach()
    unit = 1 if output.dim() > 3 else output.dim() - 1
    if output.numel() == output.shape[unit]:
        return output.reshape(-1)
    return output.amax(dim=[d for d in range(output.dim()) if d != unit])
