"""Numbers about tensors: norms in one batch, exact counts where a norm is not finite, logits, live units.

Everything here returns tensors on the device of its input and synchronises with nothing, except `examine`,
which is for the rare step that holds a non-finite value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# torch sums the squares of a float32 tensor in sixteen chains or fewer; where all squares are alike, each
# addition errs the same way, and the norm of n equal numbers is off by up to 1e-9 n (2e-4 for 200,000).
BLOCK = 1_024  # elements of a row, summed in one go
BLOCKS = (BLOCK, 512, 256, 128)
LONG = 4_096  # elements of a contiguous tensor that are still summed in one go
CONVERTED = 1 << 18  # elements that are brought to another dtype at once: they stay in the cache


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
    if not tensors:
        return torch.empty(0)
    wide = any(t.dtype is torch.float64 for t in tensors)
    dtype = torch.float64 if wide else torch.float32
    found = torch._foreach_norm(
        [_brief(t, dtype) if t.numel() > BLOCK else t for t in tensors], 2, dtype=dtype
    )
    home = found[0].device
    if any(part.device != home for part in found):
        found = tuple([part.to(home, non_blocking=True) for part in found])
    return torch.stack(found)


def _brief(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers with the same norm, so few that torch loses no digits; with strides it adds one by one."""
    elements = tensor.numel()
    if tensor.is_cuda or (elements <= LONG and tensor.is_contiguous()):
        return tensor
    if tensor.dtype is dtype and tensor.is_contiguous():  # the most frequent case, without detours
        for block in BLOCKS:
            if not elements % block and elements <= block * LONG:
                return _norms_of_rows(tensor.view(-1, block), dtype)
    return _rows(tensor, dtype)


def _rows(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers with the norm of a long tensor on the CPU, so few that torch can take it."""
    flat, repeats = _flat(tensor)
    if flat.numel() <= BLOCK:
        flat = flat.to(dtype)
    while flat.numel() > LONG or flat.dtype is not dtype:
        flat = _block_norms(flat, dtype)
    return flat if repeats == 1 else flat * math.sqrt(repeats)


def _once(tensor: Tensor) -> tuple[Tensor, int]:
    """A tensor without the dimensions along which it is expanded, and how often each number occurs."""
    repeats = 1
    for dim in reversed(range(tensor.dim())):
        if tensor.stride(dim) == 0 and tensor.shape[dim] > 1:
            repeats *= tensor.shape[dim]
            tensor = tensor.select(dim, 0)
    return tensor, repeats


def _block_norms(flat: Tensor, dtype: torch.dtype) -> Tensor:
    """Norms of consecutive blocks of a contiguous vector."""
    rest = flat.numel() % BLOCK
    blocks = (flat[: flat.numel() - rest] if rest else flat).view(-1, BLOCK)
    if flat.dtype is dtype and not rest:
        return _norms_of_rows(blocks, dtype)
    # converted as a whole, a large tensor would be written out once more
    many = CONVERTED // BLOCK  # torch.split, a function in Python, would be taken for one of the program's
    found = [_norms_of_rows(blocks[at : at + many], dtype) for at in range(0, max(1, len(blocks)), many)]
    if rest:
        found.append(torch.linalg.vector_norm(flat[-rest:], dtype=dtype)[None])
    return torch.cat(found)


def _norms_of_rows(rows: Tensor, dtype: torch.dtype) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=dtype)
    return norms


def _flat(tensor: Tensor) -> tuple[Tensor, int]:
    """All elements as a contiguous vector, in any order, and how often each occurs; no copy if it can be."""
    if tensor.is_contiguous():
        return tensor.view(-1), 1
    once, repeats = _once(tensor)
    expected = 1
    for stride, size in sorted(zip(once.stride(), once.shape, strict=True)):
        if size > 1 and stride != expected:
            return once.reshape(-1).contiguous(), repeats  # of one dimension, the first leaves it as it is
        expected *= size
    return once.as_strided((once.numel(),), (1,)), repeats


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
    l2 = _exact(values)
    if math.isfinite(l2):  # then so is every element, and counting them takes many times as long
        return Exact(l2, 0, 0)
    return Exact(l2, int(torch.isnan(values).sum()), int(torch.isinf(values).sum()))


def _exact(values: Tensor) -> float:
    """The norm in float64."""
    flat, repeats = _flat(values)
    return float(torch.linalg.vector_norm(_block_norms(flat, torch.float64))) * math.sqrt(repeats)


def logit_stats(logits: Tensor, *, count: bool) -> Tensor:
    """What logits predict.

    Args:
        logits: shape (steps, rows, classes), two classes or more.
        count: whether to count the predicted classes.

    Returns:
        Shape (steps, 5) or (steps, 4 + classes + 1): largest absolute logit; largest difference between two
        rows in the logit of one class, NaN for a single row; sum over rows of the margin between the best
        and the second best logit; rows that hold a NaN; rows predicted as each class, if asked for; rows.
        The prediction is `argmax`, which takes index 0 of an all-NaN row.
    """
    steps, rows, classes = logits.shape
    logits = logits.detach().float()
    best = logits.topk(2, dim=2).values
    single = rows < 2  # nothing to compare
    spread = logits.new_full((steps,), torch.nan) if single else (logits.amax(1) - logits.amin(1)).amax(1)
    head = torch.stack(
        (
            logits.abs().amax(dim=(1, 2)),
            spread,
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
