"""Safe forms of operations, put in their place while a step is executed again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

EPS = 1e-6


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A safe form: what it does in words, and a mode that puts it in place."""

    text: str
    mode: Callable[[], AbstractContextManager[Any]]


class _Instead(TorchFunctionMode):
    """Calls a function with other arguments wherever its name is `name`."""

    def __init__(self, names: tuple[str, ...], safe: Callable[..., tuple[Any, ...]]) -> None:
        super().__init__()
        self._names, self._safe = names, safe

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in self._names and args:
            args = self._safe(*args)
        return func(*args, **(kwargs or {}))


def rewrite_of(origin: Mapping[str, Any]) -> Rewrite | None:
    """The safe form of the operation where the birth was; None if there is none that fits all uses."""
    op = origin.get("op")
    if not isinstance(op, str) or origin.get("custom") or origin.get("hook"):
        return None
    for begins, (names, text, safe) in _SAFE.items():
        if op == begins:
            return Rewrite(text, lambda names=names, safe=safe: _Instead(names, safe))  # type: ignore[misc]
    return None


def _above_zero(x: Any, *rest: Any) -> tuple[Any, ...]:
    return (x.clamp_min(EPS) if isinstance(x, Tensor) else x, *rest)


def _apart(x: Any, y: Any, *rest: Any) -> tuple[Any, ...]:
    safe = torch.where(y.abs() < EPS, torch.full_like(y, EPS), y) if isinstance(y, Tensor) else y or EPS
    return (x, safe, *rest)


def _below_limit(x: Any, *rest: Any) -> tuple[Any, ...]:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return (x, *rest)
    return (x.clamp(max=math.log(torch.finfo(x.dtype).max) / 2), *rest)


def _inside(x: Any, *rest: Any) -> tuple[Any, ...]:
    return (x.clamp(-1 + EPS, 1 - EPS) if isinstance(x, Tensor) else x, *rest)


_LOGS = ("log", "log2", "log10")
_SAFE: Mapping[str, tuple[tuple[str, ...], str, Callable[..., tuple[Any, ...]]]] = {
    **{op: (_LOGS, f"{op}(x.clamp_min({EPS:g}))", _above_zero) for op in _LOGS},
    "sqrt": (("sqrt",), f"sqrt(x.clamp_min({EPS:g}))", _above_zero),
    "rsqrt": (("rsqrt",), f"rsqrt(x.clamp_min({EPS:g}))", _above_zero),
    "pow": (("pow", "__pow__"), f"x.clamp_min({EPS:g}) ** p", _above_zero),
    "div": (("div", "__truediv__", "true_divide"), f"divide by at least {EPS:g}", _apart),
    "exp": (("exp",), "exp(x.clamp(max=half of the limit))", _below_limit),
    "acos": (("acos", "arccos"), "acos(x.clamp(-1 + eps, 1 - eps))", _inside),
    "asin": (("asin", "arcsin"), "asin(x.clamp(-1 + eps, 1 - eps))", _inside),
    "atanh": (("atanh",), "atanh(x.clamp(-1 + eps, 1 - eps))", _inside),
}
