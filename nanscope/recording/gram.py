"""The norm of a Linear layer's weight gradient D'X from the inner products of the rows of D and of X.

`|D'X|^2 = sum((D D') * (X X'))` needs two matrices of `rows x rows` instead of a pass over `out x in`
numbers. For many rows that takes longer than the pass, and where the gradients of the samples nearly cancel,
the sum does too: `squared_norm` says so and gives nothing.

For a convolution the input has to be unfolded into patches first: for 512 x 512 x 3 x 3 weights and 32
positions, the best case of a ResNet-18, that and the products take 433 us against 311 of the pass; one stage
earlier 1,504 against 61. For an embedding the rows of D are summed by index: 137 us against 318 for 10,000 x
256 weights and 1,024 positions, a fifth of a millisecond in a step of many. Both are measured directly.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Microseconds on one CPU thread with cold caches, fitted to `python -m tests.benchmarks.gram`.
PER_PASS, PER_ELEMENT = 3.0, 8.7e-5
PER_PRODUCT, PER_MULTIPLICATION = 32.0, 7.0e-5

# The products are taken in float64. In float32 a sum over a constant row is off by up to 4e-6 of itself, and
# that is multiplied by how far the samples cancel: as often as there are rows if they are independent.
# Autograd's own float32 gradient, though, is off by its rounding times the root of the same number.
MOST_CANCELLED = 1_024.0
LARGEST, SMALLEST = 1e37, 1e-27  # of the gradient's norm: beyond it float32 may not hold each of its elements


def pays(rows: int, outputs: int, inputs: int) -> bool:
    """Whether the products take less time than a pass over the gradient."""
    products = PER_PRODUCT + PER_MULTIPLICATION * rows * rows * (outputs + inputs)
    return products < PER_PASS + PER_ELEMENT * outputs * inputs


def squared_norm(gradient: Tensor, entering: Tensor) -> float | None:
    """The squared norm of the weight's gradient; None where autograd's float32 gradient may differ by 1e-5.

    Args:
        gradient: of the layer's output, shape (..., out), float32, on the CPU.
        entering: the layer's input, shape (..., in).
    """
    left, right = _products(gradient), _products(entering)
    total = float(torch.dot(left.view(-1), right.view(-1)))
    # what the sum would be if every sample pulled the same way
    largest = float((left.diagonal() * right.diagonal()).sqrt_().sum()) ** 2
    if total == largest == 0.0:
        return total
    held = total > SMALLEST**2 and largest < LARGEST**2
    return total if held and largest <= MOST_CANCELLED * total else None


def _products(rows: Tensor) -> Tensor:
    wide = rows.reshape(-1, rows.shape[-1]).double()
    return wide @ wide.T
