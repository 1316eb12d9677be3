"""An arena: small tensors of many steps side by side, copied as they come.

Keeping the tensors themselves would be no copy, but they would sit in the holes that freed gradients leave,
so that the next gradients had to be put into fresh memory: hundreds of page faults per step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

ROWS = 256
ELEMENTS = 1 << 20  # at most, in an arena

Shapes = tuple[torch.Size, ...]


@dataclass(slots=True, eq=False)
class Slot:
    """One row of an arena, in use: tensors of these shapes, flat, one behind the other."""

    arena: Arena
    row: int


class Arena:
    """Rows for one sequence of shapes and one dtype."""

    def __init__(self, shapes: Shapes, dtype: torch.dtype) -> None:
        sizes = [math.prod(shape) for shape in shapes]
        self.shapes = shapes
        self.ends = torch.tensor(sizes).cumsum(0).tolist()
        self.buffer = torch.empty(max(1, min(ROWS, ELEMENTS // self.ends[-1])), self.ends[-1], dtype=dtype)
        self.used = 0
        self._flat = self.buffer.unbind()
        self._sizes = sizes
        self._rows: list[list[Tensor]] = []  # made when they are needed first: many a run is short

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
            parts = torch.split(self._flat[row], self._sizes)
            self._rows.append([part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)])
        torch._foreach_copy_(self._rows[row], tensors)
        self.used = row + 1
        return Slot(self, row), not math.isfinite(self._flat[row].sum().item())

    def part(self, i: int, first: int, last: int) -> Tensor:
        """Tensor i of the rows first to last, shape (rows, elements)."""
        return self.buffer[first:last, self.ends[i - 1] if i else 0 : self.ends[i]]
