"""Sharpness: the largest eigenvalue of the Hessian of the loss.

Gradient descent on a quadratic diverges along a direction exactly when the learning rate exceeds two over the
curvature there (LeCun, Simard and Pearlmutter 1993; Cohen et al. 2021, arXiv:2103.00065).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sharpness:
    """What was found.

    Attributes:
        value: the largest eigenvalue.
        iterations: Hessian-vector products that it took.
        residual: |H v - value v| for the unit vector v that was found, relative to `value`.
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
    """By power iteration with Hessian-vector products; a second one if the first finds a negative eigenvalue.

    Args:
        loss: a single number with its graph.
        parameters: leaves of that graph.
        iterations: at most, in each of the two.
        tolerance: change of the eigenvalue, relative to itself, at which it is done.
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
    found = _power(product, start, iterations, tolerance)
    if found is None or found.value >= 0:
        return found
    low = found.value  # the most negative one: shifted by it, the largest one leads
    shifted = _power(lambda v: product(v) - low * v, start, iterations, tolerance)
    if shifted is None:
        return None
    return Sharpness(shifted.value + low, found.iterations + shifted.iterations, shifted.residual)


def _power(
    product: Callable[[Tensor], Tensor], vector: Tensor, iterations: int, tolerance: float
) -> Sharpness | None:
    vector = vector / vector.norm()
    value = residual = 0.0
    for count in range(1, iterations + 1):
        image = product(vector)
        before, value = value, float(vector @ image)
        size = float(image.norm())
        if not torch.isfinite(image).all():
            return None
        if size == 0:
            return Sharpness(0.0, count, 0.0)
        residual = float((image - value * vector).norm()) / size
        vector = image / size
        if abs(value - before) <= tolerance * abs(value) and count > 1:
            break
    return Sharpness(value, count, residual)


def _split(vector: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    sizes = [parameter.numel() for parameter, _ in pairs]
    return [part.view_as(p) for part, (p, _) in zip(torch.split(vector, sizes), pairs, strict=True)]
