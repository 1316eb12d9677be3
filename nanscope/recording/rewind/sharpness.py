"""Sharpness: the largest eigenvalue of the Hessian of the loss.

Gradient descent on a quadratic diverges along a direction exactly when the learning rate exceeds two over the
curvature there (LeCun, Simard and Pearlmutter 1993; Cohen et al. 2021, arXiv:2103.00065).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FEWEST = 10  # iterations: in fewer a single large eigenvalue among many small ones may not have come up


@dataclass(frozen=True, slots=True)
class Sharpness:
    """What was found.

    Attributes:
        value: the largest eigenvalue.
        iterations: Hessian-vector products that it took.
        residual: |H v - value v| for the unit vector v that was found, relative to `value`: so near to it
            there is an eigenvalue.
    """

    value: float
    iterations: int
    residual: float


def sharpness(
    loss: Tensor,
    parameters: Sequence[Tensor],
    *,
    iterations: int = 30,
    tolerance: float = 1e-2,
    seed: int = 0,
) -> Sharpness | None:
    """By the Lanczos iteration (1950) with Hessian-vector products: power iteration that forgets nothing.

    It takes as many products as power iteration does and two vectors more, but is not held up by eigenvalues
    of about the same size, nor led astray by a negative one or by the mass of small ones. Without
    reorthogonalisation eigenvalues come up twice, which does not touch the largest (Paige 1980).

    Args:
        loss: a single number with its graph.
        parameters: leaves of that graph.
        iterations: at most.
        tolerance: residual at which it is done, as in `Sharpness`.
        seed: of the first vector; the program's own generators are not drawn from.

    Returns:
        None if the loss cannot be differentiated twice, or its curvature is not finite.
    """
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    try:
        gradients = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
    except RuntimeError:
        return None
    pairs = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None and g.requires_grad]
    if not pairs:
        return None

    def product(vector: Tensor) -> Tensor:
        parts = [(g * v).sum() for (_, g), v in zip(pairs, _split(vector, pairs), strict=True)]
        inner = torch.stack(parts).sum()
        second = torch.autograd.grad(inner, [p for p, _ in pairs], retain_graph=True, allow_unused=True)
        rows = [torch.zeros_like(p) if h is None else h for (p, _), h in zip(pairs, second, strict=True)]
        return torch.cat([row.reshape(-1) for row in rows]).detach()

    try:
        return _largest(product, pairs, iterations, tolerance, seed)
    except RuntimeError:  # an operation without a second derivative
        return None


def _largest(
    product: Callable[[Tensor], Tensor],
    pairs: Sequence[tuple[Tensor, Tensor]],
    iterations: int,
    tolerance: float,
    seed: int,
) -> Sharpness | None:
    first = pairs[0][0]
    generator = torch.Generator().manual_seed(seed)
    size = sum(parameter.numel() for parameter, _ in pairs)
    start = torch.randn(size, generator=generator).to(first.device, first.dtype)
    vector, previous, beta = start / start.norm(), torch.zeros_like(start), 0.0
    tridiagonal = torch.zeros(iterations, iterations, dtype=torch.float64)
    for count in range(1, iterations + 1):
        image = product(vector)
        if not bool(torch.isfinite(image).all()):
            return None
        alpha = float(vector @ image)
        image = image - alpha * vector - beta * previous
        beta = float(image.norm())
        tridiagonal[count - 1, count - 1] = alpha
        values, vectors = torch.linalg.eigh(tridiagonal[:count, :count])
        found = Sharpness(float(values[-1]), count, _relative(beta * float(vectors[-1, -1]), values))
        exhausted = beta <= torch.finfo(first.dtype).eps * float(values.abs().max())
        if exhausted or count == iterations or (count >= FEWEST and found.residual <= tolerance):
            break
        tridiagonal[count, count - 1] = tridiagonal[count - 1, count] = beta
        previous, vector = vector, image / beta
    return found


def _relative(residual: float, values: Tensor) -> float:
    """|H v - value v| of the largest value, relative to it; 0 where both are zero."""
    size = abs(float(values[-1]))
    return abs(residual) / size if size else math.inf if residual else 0.0


def _split(vector: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    sizes = [parameter.numel() for parameter, _ in pairs]
    return [part.view_as(p) for part, (p, _) in zip(torch.split(vector, sizes), pairs, strict=True)]
