"""Other processes that train the same model: a step executed again must not speak to them.

They go on with the training meanwhile; a message that they do not expect ends it, or is taken for another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

NAMESPACES = ("c10d", "c10d_functional", "_c10d_functional", "symm_mem")
SPREAD = ("torch.distributed.fsdp", "torch.distributed._composable.fsdp")
SPREAD_TENSORS = ("torch.distributed.tensor", "torch.distributed._tensor")
GRADIENTS = (
    "the gradients are a mean over several processes, and this one's are finite: see the run files of others"
)
STEPS = "it was born in an earlier step, of which the gradients of other processes are a part"


def are_several() -> bool:
    """Whether this is one of several processes of a training."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def obstacle(model: nn.Module) -> str:
    """Why a step of a model cannot be executed by one process alone; empty if it can."""
    if not are_several():
        return ""
    spread = any(_is_of(module, SPREAD) for module in model.modules())
    spread = spread or any(_is_of(parameter, SPREAD_TENSORS) for parameter in model.parameters())
    return "the parameters of the model are spread over several processes" if spread else ""


@contextmanager
def alone(model: nn.Module) -> Iterator[None]:
    """Within, gradients and buffers of the model stay this process' own, and it speaks to no other one.

    Raises:
        RuntimeError: something within was about to.
    """
    if not are_several():
        yield
        return
    wrapped = [module for module in model.modules() if isinstance(module, DistributedDataParallel)]
    before = [(m, m.require_backward_grad_sync, m.require_forward_param_sync) for m in wrapped]
    try:
        for module in wrapped:
            module.require_backward_grad_sync = module.require_forward_param_sync = False
        with _Silence():  # type: ignore[no-untyped-call]
            yield
    finally:
        for module, backward, forward in before:
            module.require_backward_grad_sync, module.require_forward_param_sync = backward, forward


class _Silence(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses every operation that is one of several processes together."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func.namespace in NAMESPACES:
            raise RuntimeError(f"the step speaks to other processes ({func.__name__.partition('.')[0]})")
        return func(*args, **(kwargs or {}))


def _is_of(thing: nn.Module | torch.Tensor, packages: tuple[str, ...]) -> bool:
    return any(each.__module__.startswith(packages) for each in type(thing).__mro__)
