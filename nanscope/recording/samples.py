"""Gradient norms of single samples: which row of the batch pulls hardest at the weights.

The gradient of a Linear layer's weight for sample b is `D_b' X_b`, of its rows of the gradient of the output
and of the input. Its norm needs no pass over the weights (Goodfellow 2015, arXiv:1510.01799): |D_b| |X_b| for
one row per sample; for a sequence of them its square is `sum((D_b D_b') * (X_b X_b'))`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LONGEST = 512  # positions of a sequence; the products are of as many squared

MOST_STEPS = 128  # whose norms are kept

Doubles = NDArray[np.float64]


class Samples:
    """The norms of the last steps that were looked at closely.

    Attributes:
        kept: by step, oldest first; each of shape (samples,).
    """

    def __init__(self) -> None:
        self.kept: dict[int, Doubles] = {}

    def weigh(self, step: int, factors: Iterable[tuple[Tensor, Tensor]], rows: int) -> Doubles | None:
        """Take and keep the norms of one step, see `sample_norms`."""
        norms = sample_norms(factors, rows)
        if norms is not None:
            self.kept[step] = norms
            if len(self.kept) > MOST_STEPS:
                del self.kept[next(iter(self.kept))]
        return norms


@torch.no_grad()
def sample_norms(factors: Iterable[tuple[Tensor, Tensor]], rows: int) -> Doubles | None:
    """Norm of each sample's own gradient, over the weights of all Linear layers whose factors are given.

    Args:
        factors: gradient of the output, shape (rows, out) or (rows, positions, out), and input, shape
            (rows, in) or (rows, positions, in). Others are left out.
        rows: samples of the batch.

    Returns:
        Shape (rows,); NaN or inf where a sample's gradient is. None if no factors fit.
    """
    squares = [_squares(d.detach(), x.detach()) for d, x in factors if _fit(d, x, rows)]
    return np.sqrt(np.sum(squares, axis=0)) if squares else None


def _fit(gradient: Tensor, entering: Tensor, rows: int) -> bool:
    alike = gradient.shape[:-1] == entering.shape[:-1] and gradient.shape[0] == rows
    short = gradient.dim() == 2 or (gradient.dim() == 3 and gradient.shape[1] <= LONGEST)
    return alike and short and not (gradient.is_complex() or entering.is_complex())


def _squares(gradient: Tensor, entering: Tensor) -> Doubles:
    if gradient.dim() == 2:
        norms = [torch.linalg.vector_norm(t, dim=1, dtype=torch.float64) for t in (gradient, entering)]
        found = (norms[0] * norms[1]).square()
    else:
        d, x = gradient.double(), entering.double()
        found = ((d @ d.mT) * (x @ x.mT)).sum((1, 2)).clamp_min(0)
    return np.asarray(found.cpu())


def heaviest(norms: Doubles, count: int = 10) -> tuple[list[int], list[float]]:
    """The samples with the largest norms, non-finite ones first, and the norms."""
    rank = np.where(np.isfinite(norms), norms, np.inf)
    rows = np.argsort(-rank, kind="stable")[:count]
    return rows.tolist(), norms[rows].tolist()
