"""The samples of a step: how many there are, and along which dimension they lie."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

ODD = 100.0  # times the median of a batch: what is so much larger is no ordinary sample


@dataclass(frozen=True, slots=True)
class Batch:
    """Of one step.

    Attributes:
        rows: samples; 0 if that is not known.
        axis: dimension of the samples in what goes into the model; 1 where time comes first.
    """

    rows: int
    axis: int = 0

    def axis_of(self, tensor: Tensor) -> int | None:
        """The dimension of the samples in a tensor, None if none has their number."""
        axes = (self.axis, 0)
        return next((a for a in axes if tensor.dim() > a and tensor.shape[a] == self.rows), None)

    def broken(self, tensor: Tensor) -> list[int]:
        """The samples that hold something non-finite, in order; empty where a tensor has none."""
        axis = self.axis_of(tensor)
        if axis is None or not (tensor.is_floating_point() or tensor.is_complex()):
            return []
        by_sample = torch.isfinite(tensor.detach()).movedim(axis, 0).reshape(self.rows, -1)
        return [int(row) for row in torch.nonzero(~by_sample.all(dim=1)).flatten()]

    def odd(self, tensor: Tensor) -> list[int]:
        """The samples whose largest number is far beyond that of most others, in order."""
        axis = self.axis_of(tensor)
        if axis is None or not tensor.is_floating_point() or not tensor.numel():
            return []
        sizes = tensor.detach().abs().movedim(axis, 0).reshape(self.rows, -1).amax(dim=1)
        return [int(row) for row in torch.nonzero(sizes > ODD * sizes.median()).flatten()]

    def without(self, tensor: Tensor, left_out: Collection[int]) -> Tensor:
        """The tensor with other samples in place of some: the shapes stay."""
        axis = self.axis_of(tensor)
        rest = [row for row in range(self.rows) if row not in left_out]
        if axis is None or not rest:
            return tensor
        rows = [rest[row % len(rest)] if row in left_out else row for row in range(self.rows)]
        chosen = tensor.detach().index_select(axis, torch.tensor(rows, device=tensor.device))
        return chosen.requires_grad_(tensor.requires_grad)


def batch_of(model: nn.Module, inputs: Sequence[Tensor], rows: int, execute: Callable[[], object]) -> Batch:
    """Where the samples lie, by the modules that take time first and get what goes into the model as it is.

    Args:
        model: the root.
        inputs: what goes into it.
        rows: size of the first dimension.
        execute: the step; called only if the model has such modules, and may raise.
    """
    first = next((tensor for tensor in inputs if tensor.dim() > 1), None)
    time_first = [module for module in model.modules() if getattr(module, "batch_first", None) is False]
    if first is None or not time_first:
        return Batch(rows)
    shapes: list[tuple[int, ...]] = []

    def see(_module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        tensors = (value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        shapes.extend(tuple(tensor.shape[:2]) for tensor in list(tensors)[:1] if tensor.dim() > 2)

    handles = [module.register_forward_pre_hook(see, with_kwargs=True) for module in time_first]
    try:
        with suppress(Exception):  # shapes of what came before are enough
            execute()
    finally:
        for handle in handles:
            handle.remove()
    return Batch(first.shape[1], 1) if tuple(first.shape[:2]) in shapes else Batch(rows)
