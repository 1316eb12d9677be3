"""A slow, independent recorder: every norm in float64, by a hook of its own, nothing shared or deferred."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Norms = dict[str, float]


def norm(tensors: list[Tensor]) -> float:
    """Euclidean norm of all elements of all tensors together."""
    return sum(float((_wide(t.detach().to_dense()).abs() ** 2).sum()) for t in tensors) ** 0.5


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def flat(value: Any) -> list[Tensor]:
    """Floating tensors in a nested output."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if hasattr(value, "values"):
        value = list(value.values())
    if hasattr(value, "__dataclass_fields__"):
        value = [getattr(value, name) for name in value.__dataclass_fields__]
    return [t for item in value for t in flat(item)] if isinstance(value, list | tuple) else []


@contextmanager
def slowly(
    model: nn.Module, optimizer: Optimizer, seen: defaultdict[str, list[Tensor]] | None = None
) -> Iterator[list[Norms]]:
    """Collect one dict per optimizer step: site name to norm, named as nanscope names its sites.

    Args:
        seen: where the outputs and their gradients of the step under way are kept, if the caller wants them.
    """
    steps: list[Norms] = []
    seen = defaultdict(list) if seen is None else seen
    handles = [m.register_forward_hook(_watch(n or "model", seen)) for n, m in model.named_modules()]

    before: dict[str, Tensor] = {}

    def begin(*_: Any) -> None:
        before.update({name: parameter.detach().clone() for name, parameter in model.named_parameters()})

    def end(*_: Any) -> None:
        norms = {site: norm(tensors) for site, tensors in seen.items()}
        for name, parameter in model.named_parameters():
            norms[name] = norm([parameter])
            norms[f"{name}.update"] = norm([_wide(parameter.detach()) - _wide(before[name])])
            if parameter.grad is not None:
                norms[f"{name}.grad"] = norm([parameter.grad])
        steps.append(norms)
        seen.clear()

    handles.append(optimizer.register_step_pre_hook(begin))
    handles.append(optimizer.register_step_post_hook(end))
    try:
        yield steps
    finally:
        for handle in handles:
            handle.remove()


def _watch(name: str, seen: defaultdict[str, list[Tensor]]) -> Callable[..., None]:
    def hook(_module: nn.Module, _args: Any, output: Any) -> None:
        if not torch.is_grad_enabled():
            return
        for tensor in flat(output):
            seen[f"{name}.output"].append(tensor.detach().clone())
            if tensor.requires_grad:
                tensor.register_hook(lambda g: seen[f"{name}.grad_output"].append(g.detach().clone()))

    return hook
