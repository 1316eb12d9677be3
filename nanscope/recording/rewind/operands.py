"""Numbers about the operands and the result of one operation, as JSON types."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nanscope.recording.finite import is_finite, real

MOST_ELEMENTS = 5


def number(value: float) -> float | str:
    """A number as JSON has it: one that is not finite is a word."""
    return value if math.isfinite(value) else str(value)


def counts(tensor: Tensor) -> dict[str, int]:
    """Elements that are NaN, +inf and -inf."""
    if is_finite(tensor):
        return {"nan": 0, "posinf": 0, "neginf": 0}
    values = real(tensor)
    nan = _count(values != values)  # noqa: PLR0124 - as `isnan`, four times as fast
    some = nan < values.numel()
    return {
        "nan": nan,
        "posinf": _count(values == math.inf) if some else 0,
        "neginf": _count(values == -math.inf) if some else 0,
    }


def describe(tensor: Tensor, role: str, name: str | None) -> dict[str, Any]:
    """An operand; extremes are of its finite elements, "nan" if there are none."""
    values = real(tensor)
    values = values if values.dtype in (torch.float32, torch.float64) else values.double()
    finite = values if is_finite(tensor) else values[torch.isfinite(values)]
    sizes, zeros = finite.abs(), finite.numel() - _count(finite)
    nonzero = sizes[sizes > 0] if zeros else sizes
    found = counts(tensor)
    return {
        "role": role,
        "name": name,
        "shape": list(tensor.shape),
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "numel": tensor.numel(),
        "abs_max": _extreme(sizes, torch.max),
        "abs_min_nonzero": _extreme(nonzero, torch.min),
        "min": _extreme(finite, torch.min),
        "max": _extreme(finite, torch.max),
        "zeros": zeros,
        "inf": found["posinf"] + found["neginf"],
        **found,
    }


def result_of(tensor: Tensor, which: int) -> dict[str, Any]:
    """The result, output `which` of the operation."""
    return {
        "shape": list(tensor.shape),
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "numel": tensor.numel(),
        "which": which,
        **counts(tensor),
    }


def elements(result: Tensor, operands: Sequence[Tensor | None]) -> list[dict[str, Any]]:
    """The first broken elements of a result, with what made them where that is element by element.

    Args:
        operands: as they were before the operation; None for one that is no longer to be had.
    """
    bad = torch.nonzero(~torch.isfinite(real(newly(result, operands))))[:MOST_ELEMENTS].tolist()
    return [
        {
            "index": index,
            "value": number(float(real(result)[tuple(index)])),
            "operands": [_at(operand, result, index) for operand in operands],
        }
        for index in bad
    ]


def newly(result: Tensor, operands: Sequence[Tensor | None]) -> Tensor:
    """The result, with zeros for infinities where it has NaN, too, and an operand held infinities already."""
    values = result.detach()
    if all(operand is None or is_finite(operand) for operand in operands) or values.is_complex():
        return values
    if values.layout is not torch.strided or not bool(values.isnan().any()):
        return values
    return torch.where(values.isinf(), torch.zeros_like(values), values)


def reduced(
    operand: Tensor, result: Tensor, scalars: Mapping[str, Any], index: Sequence[int]
) -> dict[str, Any] | None:
    """The part of an operand that one element of a reduction or softmax is made of."""
    dims = scalars.get("dim")
    if dims is None:
        dims = list(range(operand.dim())) if result.dim() == 0 else None
    if dims is None or not operand.dim():
        return None
    dims = sorted({d % operand.dim() for d in ([dims] if isinstance(dims, int) else dims)})
    rest = iter(index)
    where: list[Any] = []
    for dim in range(operand.dim()):
        if result.dim() == operand.dim():
            position = next(rest)
            where.append(slice(None) if dim in dims else position)
        else:
            where.append(slice(None) if dim in dims else next(rest, 0))
    row = real(operand)[tuple(where)].double()
    if not row.numel():
        return {"dim": dims, "row": {"numel": 0}}
    row_counts = counts(row)
    return {
        "dim": dims,
        "row": {
            "numel": row.numel(),
            "max": number(float(row.max())),
            "min": number(float(row.min())),
            **row_counts,
        },
    }


def matrix(operand: Tensor, index: Sequence[int]) -> dict[str, Any] | None:
    """The square matrix of an operand that a broken element was made of; None if it is none.

    Its singular values are computed in float64, its rank with the precision of the operand: by the largest of
    them times the size times the distance from 1 to the next number (as in MATLAB and numpy).
    """
    if operand.dim() < 2 or operand.shape[-1] != operand.shape[-2] or not operand.is_floating_point():
        return None
    values = operand.detach()[tuple(index[: operand.dim() - 2])].double().cpu()
    if not values.numel() or not bool(torch.isfinite(values).all()):
        return None
    found = torch.linalg.svdvals(values)
    least = float(found[0]) * len(values) * torch.finfo(operand.dtype).eps
    lowest = torch.linalg.eigvalsh((values + values.mT) / 2)[0]
    return {
        "size": len(values),
        "rank": int((found > least).sum()),
        "largest": number(float(found[0])),
        "smallest": number(float(found[-1])),
        "lowest": number(float(lowest)),  # eigenvalue of its symmetric part
    }


def _count(values: Tensor) -> int:
    """Elements that are not zero, or not False."""
    return int(torch.count_nonzero(values))


def _extreme(values: Tensor, which: Any) -> float | str:
    return number(float(which(values))) if values.numel() else "nan"


def _at(operand: Tensor | None, result: Tensor, index: list[int]) -> float | str | None:
    if operand is None or operand.is_complex() or result.is_complex():
        return None
    try:
        return number(float(operand.detach().broadcast_to(result.shape)[tuple(index)]))
    except RuntimeError:  # another shape: not made element by element
        return None
