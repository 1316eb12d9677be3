"""Names of tensors from outside of a step: parameters, buffers, inputs, targets, states of optimizers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

INPUT, TARGET = "input", "target"

Place = tuple[int, int, tuple[int, ...], tuple[int, ...], torch.dtype]
"""Address of the memory, offset, shape, strides and dtype."""


class Names:
    """Of one training.

    Args:
        inputs: what goes into the model, `targets` what else comes from outside of the step.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        inputs: Sequence[Tensor],
        targets: Sequence[Tensor],
    ) -> None:
        self._model, self._optimizers = model, optimizers
        self._given = [*((INPUT, t) for t in inputs), *((TARGET, t) for t in targets)]
        self._held = dict(model.named_parameters()), dict(model.named_buffers())

    def of(self, tensor: Tensor) -> str | None:
        """The name of a tensor, or of one that lies in the same memory; None if it has none."""
        place, memory = place_of(tensor), memory_of(tensor)
        near = [(name, held) for name, held in self._every() if memory_of(held) == memory]
        same = (name for name, held in near if place_of(held) == place)
        around = (name for name, held in near if _holds(held, tensor))
        return next(same, None) or next(around, None)

    def is_parameter(self, name: str | None) -> bool:
        """Whether a name is that of a parameter."""
        return name in self._held[0]

    def is_buffer(self, name: str | None) -> bool:
        """Whether a name is that of a buffer."""
        return name in self._held[1]

    def has_parameter_of(self, shape: torch.Size) -> bool:
        """Whether a parameter has this shape."""
        return any(parameter.shape == shape for parameter in self._held[0].values())

    def _every(self) -> Iterator[tuple[str, Tensor]]:
        for held in self._held:
            yield from held.items()
        yield from self._given
        for name, parameter in self._held[0].items():
            if parameter.grad is not None:
                yield f"{name}.grad", parameter.grad
        for optimizer in self._optimizers:
            for state in optimizer.state.values():
                yield from ((f"state:{key}", t) for key, t in state.items() if isinstance(t, Tensor))


def _holds(held: Tensor, part: Tensor) -> bool:
    """Whether the first number of a tensor in the same memory is one of `held`, as in no other column."""
    if held.layout is not torch.strided or part.layout is not torch.strided:
        return True
    rest = part.storage_offset() * part.element_size() // held.element_size() - held.storage_offset()
    for stride, size in sorted(zip(held.stride(), held.shape, strict=True), reverse=True):
        rest -= stride * max(0, min(rest // stride, size - 1)) if stride else 0
    return bool(rest == 0)


def memory_of(tensor: Tensor) -> int:
    """Address of the memory that a tensor is a view of."""
    if tensor.layout is not torch.strided:
        return id(tensor)
    return tensor.untyped_storage().data_ptr() or id(tensor)


def place_of(tensor: Tensor) -> Place:
    """Which numbers in memory a tensor is."""
    if tensor.layout is not torch.strided:
        return id(tensor), 0, tuple(tensor.shape), (), tensor.dtype
    return memory_of(tensor), int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride(), tensor.dtype
