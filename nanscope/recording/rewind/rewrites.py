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


Safe = Callable[..., tuple[Any, ...]]
"""Other arguments for a call."""


class _Instead(TorchFunctionMode):
    """Calls functions with other arguments, by their names."""

    def __init__(self, forms: Mapping[str, Safe]) -> None:
        super().__init__()
        self._forms = forms

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        safe = self._forms.get(getattr(func, "__name__", ""))
        if safe is not None and args:
            args = safe(*args)
        return func(*args, **(kwargs or {}))


def rewrite_of(origin: Mapping[str, Any]) -> Rewrite | None:
    """The safe form of the operation where the birth was; None if there is none that fits all uses."""
    op = origin.get("op")
    if not isinstance(op, str) or op not in _SAFE or origin.get("custom") or origin.get("hook"):
        return None
    text, forms = _SAFE[op]
    return Rewrite(text, lambda: _Instead(forms))


def _above_zero(x: Any, *rest: Any) -> tuple[Any, ...]:
    return (x.clamp_min(EPS) if isinstance(x, Tensor) else x, *rest)


def _with_a_root(x: Any, exponent: Any, *rest: Any) -> tuple[Any, ...]:
    """A positive base where the exponent is negative or no whole number; others are defined everywhere."""
    if not isinstance(x, Tensor):
        return (x, exponent, *rest)
    exponents = exponent if isinstance(exponent, Tensor) else torch.tensor(exponent)
    fine = (exponents >= 0) & (exponents == exponents.round())
    if bool(fine.all()):
        return (x, exponent, *rest)
    return (torch.where(fine.to(x.device), x, x.clamp_min(EPS)), exponent, *rest)


def _apart_from_zero(x: Any, *rest: Any) -> tuple[Any, ...]:
    if not isinstance(x, Tensor):
        return (x or EPS, *rest)
    away = torch.where(x < 0, -EPS, EPS).to(x.dtype)
    return (torch.where(x.abs() < EPS, away, x), *rest)


def _divided(x: Any, y: Any, *rest: Any) -> tuple[Any, ...]:
    return (x, *_apart_from_zero(y), *rest)


def _below_limit(x: Any, *rest: Any) -> tuple[Any, ...]:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return (x, *rest)
    return (x.clamp(max=math.log(torch.finfo(x.dtype).max) / 2), *rest)


def _inside(x: Any, *rest: Any) -> tuple[Any, ...]:
    return (x.clamp(-1 + EPS, 1 - EPS) if isinstance(x, Tensor) else x, *rest)


_LOGS = dict.fromkeys(("log", "log2", "log10"), _above_zero)
_POWERS = dict.fromkeys(("pow", "float_power"), _with_a_root)
_TURNED = dict.fromkeys(("__rtruediv__", "__rdiv__", "reciprocal"), _apart_from_zero)
_QUOTIENTS = dict.fromkeys(("div", "divide", "true_divide", "div_", "divide_"), _divided) | _TURNED
_SAFE: Mapping[str, tuple[str, Mapping[str, Safe]]] = {
    **{op: (f"{op}(x.clamp_min({EPS:g}))", _LOGS) for op in _LOGS},
    "sqrt": (f"sqrt(x.clamp_min({EPS:g}))", {"sqrt": _above_zero}),
    "rsqrt": (f"rsqrt(x.clamp_min({EPS:g}))", {"rsqrt": _above_zero}),
    "pow": (f"x.clamp_min({EPS:g}) ** p", _POWERS),
    "div": (f"divide by at least {EPS:g}", _QUOTIENTS),
    "reciprocal": (f"divide by at least {EPS:g}", _QUOTIENTS),
    "exp": ("exp(x.clamp(max=half of the limit))", {"exp": _below_limit}),
    "acos": ("acos(x.clamp(-1 + eps, 1 - eps))", dict.fromkeys(("acos", "arccos"), _inside)),
    "asin": ("asin(x.clamp(-1 + eps, 1 - eps))", dict.fromkeys(("asin", "arcsin"), _inside)),
    "atanh": ("atanh(x.clamp(-1 + eps, 1 - eps))", dict.fromkeys(("atanh", "arctanh"), _inside)),
}
