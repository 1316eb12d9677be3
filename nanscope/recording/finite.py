"""Whether a tensor is finite: one question, one answer for all who ask."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def is_finite(tensor: Tensor) -> bool:
    """Whether no element is NaN or infinite; integers and tensors without numbers are."""
    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.is_meta:
        return True
    values = real(tensor)
    if values.element_size() == 1:  # of numbers of 8 bits there is no largest
        return bool(torch.isfinite(values).all())
    if not values.numel():
        return True
    least, most = torch.aminmax(values)  # NaN if any element is; thirty times as fast as a mask
    return math.isfinite(least) and math.isfinite(most)


def real(tensor: Tensor) -> Tensor:
    """The tensor's own numbers as real ones, without its graph."""
    values = tensor.detach()
    if values.layout is not torch.strided:
        values = (values.coalesce() if values.layout is torch.sparse_coo else values).values()
    return torch.view_as_real(values.resolve_conj()) if values.is_complex() else values
