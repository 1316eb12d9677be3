"""The bits of a tensor, whatever its dtype: into given bytes, and back into a tensor.

Elements are copied as integers of their size, so that no conversion ever touches them: the payload of a NaN,
a float8 and the two zeros come back as they were.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from nanscope.errors import UsageError
from nanscope.store.snapshots.slots import ITEM_BYTES, Piece

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def dtype_name(dtype: torch.dtype) -> str:
    """Name of a dtype without `torch.`."""
    return str(dtype).removeprefix("torch.")


_REFUSED: tuple[tuple[Callable[[Tensor], bool], str], ...] = (
    (is_lazy, "has no shape before its module ran once"),
    (is_traceable_wrapper_subclass, "is of a class whose memory is not its own"),
    (lambda tensor: tensor.is_nested or tensor.layout != torch.strided, "is sparse or nested"),
    (lambda tensor: tensor.is_conj() or tensor.is_neg(), "is a conjugated or negated view"),
    (lambda tensor: tensor.is_meta, "is on the meta device and has no values"),
    (lambda tensor: dtype_name(tensor.dtype) not in ITEM_BYTES, "is of a quantized or unknown dtype"),
)
"""What cannot be stored, and why, as the end of a sentence."""


def place(tensor: Tensor) -> tuple[Any, ...]:
    """What two tensors share that are tied: the same elements in the same memory."""
    where = tensor.data_ptr() if tensor.numel() else id(tensor)
    return where, tensor.device, tensor.dtype, tensor.shape, tensor.stride()


def piece_of(tensor: Tensor, name: str) -> Piece:
    """The tensor as something to store; it is read when the piece is copied, not now.

    Raises:
        UsageError: it cannot be stored.
    """
    for is_refused, reason in _REFUSED:
        if is_refused(tensor):
            raise UsageError(f"{name} {reason}, and a snapshot cannot hold that")

    def copy_to(target: NDArray[np.uint8]) -> None:
        if tensor.numel():
            source = _as_integers(tensor)
            room = torch.from_numpy(target).view(source.dtype).view(source.shape)
            room.copy_(source)

    return Piece(dtype_name(tensor.dtype), tuple(tensor.shape), copy_to)


def write_bits(tensor: Tensor, elements: NDArray[Any]) -> None:
    """Fill a tensor in place with stored elements of its shape and dtype; a version bump is all one sees."""
    if tensor.numel():
        target = _as_integers(tensor)
        target.copy_(_flat(elements).view(target.dtype).view(target.shape))


def tensor_of(elements: NDArray[Any], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A new tensor of stored elements."""
    own = _flat(elements).clone()  # numpy's memory could not be resized
    return own.view(dtype).view(elements.shape).to(device)


def distinct(tensor: Tensor) -> Tensor:
    """The tensor without the repetitions of an expanded one: each of its places in memory once."""
    out = tensor.detach()
    for axis, (length, stride) in enumerate(zip(out.shape, out.stride(), strict=True)):
        if stride == 0 and length > 1:
            out = out.narrow(axis, 0, 1)
    return out


def _as_integers(tensor: Tensor) -> Tensor:
    """The same memory as integers; complex numbers of 16 bytes as two, in one more dimension."""
    plain = tensor.detach()
    if plain.dtype == torch.complex128:
        plain = torch.view_as_real(plain)
    return plain.view(_INTEGERS[plain.element_size()])


def _flat(elements: NDArray[Any]) -> Tensor:
    return torch.from_numpy(elements.reshape(-1).view(np.uint8))
