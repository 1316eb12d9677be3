"""The norm of a Linear layer's weight gradient D'X from the inner products of the rows of D and of X.

`|D'X|^2 = sum((D D') * (X X'))` needs two matrices of `rows x rows` instead of a pass over `out x in`
numbers. For many rows that takes longer than the pass, and where the gradients of the samples nearly cancel,
the sum does too: `squared_norm` says so and gives nothing.

For a convolution the same would need its input unfolded into patches: for 512 x 512 x 3 x 3 weights and 32
positions that, with the products, takes 190 us against 205 of the pass, and for all earlier layers of a
ResNet far longer. For an embedding the rows of D have to be summed by index first, which costs as much as a
pass over a vocabulary of ten thousand. Both are measured directly.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Microseconds on one CPU thread with cold caches, fitted to `python -m tests.benchmarks.gram`.
PER_PASS, PER_ELEMENT = 3.0, 8.7e-5
PER_PRODUCT, PER_MULTIPLICATION = 16.0, 2.6e-5

MOST_CANCELLED = 64.0  # float32 keeps the square root of the sum to 1e-5 up to here


def pays(rows: int, outputs: int, inputs: int) -> bool:
    """Whether the products take less time than a pass over the gradient."""
    products = PER_PRODUCT + PER_MULTIPLICATION * rows * rows * (outputs + inputs)
    return products < PER_PASS + PER_ELEMENT * outputs * inputs


def squared_norm(gradient: Tensor, entering: Tensor) -> float | None:
    """The squared norm of the weight's gradient; None where float32 does not hold it to 1e-5.

    Args:
        gradient: of the layer's output, shape (..., out), float32, on the CPU.
        entering: the layer's input, shape (..., in).
    """
    d, x = gradient.reshape(-1, gradient.shape[-1]), entering.reshape(-1, entering.shape[-1])
    left, right = d @ d.T, x @ x.T
    total = float(torch.dot(left.view(-1), right.view(-1)))
    # what the sum would be if every sample pulled the same way; the error is a share of that
    largest = float((left.diagonal() * right.diagonal()).sqrt_().sum()) ** 2
    return total if largest <= MOST_CANCELLED * total < float("inf") else None
