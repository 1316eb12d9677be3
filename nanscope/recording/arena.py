"""An arena: small tensors of many steps side by side, copied as they come.

Keeping the tensors themselves would be no copy, but they would sit in the holes that freed gradients leave,
so that the next gradients had to be put into fresh memory: hundreds of page faults per step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate, groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ROWS = 256
ELEMENTS = 1 << 20  # at most, in an arena
TINY = 1e-17  # a norm below it is taken again in float64: squares of float32 vanish

Shapes = tuple[torch.Size, ...]


@dataclass(slots=True, eq=False)
class Slot:
    """One row of an arena, in use: tensors of these shapes, flat."""

    arena: Arena
    row: int


class Arena:
    """Rows for one sequence of shapes and one dtype.

    Within a row tensors of one size lie side by side, whatever their order, so that their norms are taken in
    one call.
    """

    def __init__(self, shapes: Shapes, dtype: torch.dtype) -> None:
        sizes = [math.prod(shape) for shape in shapes]
        order = sorted(range(len(sizes)), key=sizes.__getitem__)
        ends = list(accumulate(sizes[i] for i in order))
        self.shapes, self._sizes = shapes, sizes
        self._begins = {i: end - sizes[i] for i, end in zip(order, ends, strict=True)}
        self._alike = [(size, list(those)) for size, those in groupby(order, key=sizes.__getitem__)]
        self._buffer = torch.empty(max(1, min(ROWS, ELEMENTS // ends[-1])), ends[-1], dtype=dtype)
        self._flat = self._buffer.unbind()
        self._rows: list[list[Tensor]] = []  # made when they are needed first: many a run is short
        self.used = 0

    @property
    def full(self) -> bool:
        """Whether no row is free."""
        return self.used == len(self._flat)

    def put(self, tensors: list[Tensor]) -> tuple[Slot, bool]:
        """Copy tensors of the arena's shapes into the next row; under no_grad.

        Returns:
            The row, and whether an element in it may not be finite: their sum is not, or has overflowed.
        """
        row = self.used
        if row == len(self._rows):
            self._rows.append([self.part(i, row, row + 1).view(shape) for i, shape in enumerate(self.shapes)])
        torch._foreach_copy_(self._rows[row], tensors)
        self.used = row + 1
        return Slot(self, row), not math.isfinite(self._flat[row].sum().item())

    def part(self, i: int, first: int, last: int) -> Tensor:
        """Tensor i of the rows first to last, shape (rows, elements)."""
        begin = self._begins[i]
        return self._buffer[first:last, begin : begin + self._sizes[i]]

    def norms(self, first: int, last: int) -> NDArray[np.float64]:
        """Norms of the tensors of the rows first to last, shape (rows, tensors)."""
        found = np.zeros((last - first, len(self.shapes)))
        for size, those in self._alike:
            if not size:
                continue  # of a batch without rows
            begin = self._begins[those[0]]
            parts = self._buffer[first:last, begin : begin + size * len(those)].view(-1, len(those), size)
            norms = torch.linalg.vector_norm(parts, dim=2).double()
            tiny = norms < TINY
            if tiny.any():
                norms[tiny] = torch.linalg.vector_norm(parts[tiny], dim=1, dtype=torch.float64)
            found[:, those] = norms.numpy()
        return found
