"""Safe forms: the same as the operation on ordinary numbers, finite where it is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nanscope.recording.rewind.rewrites import rewrite_of

ORDINARY = torch.tensor([0.1, 0.5, 0.9])
EDGES = torch.tensor([0.0, -1.0, 1.0, 2.0])

CALLS: dict[str, tuple[str, Callable[[Tensor], Tensor], Tensor]] = {
    "log": ("log", lambda x: x.log(), EDGES),
    "log10": ("log10", torch.log10, EDGES),
    "sqrt": ("sqrt", lambda x: x.sqrt(), EDGES),
    "rsqrt": ("rsqrt", torch.rsqrt, EDGES),
    "power": ("pow", lambda x: x**0.5, EDGES),
    "negative power": ("pow", lambda x: torch.pow(x, -2), EDGES),
    "quotient": ("div", lambda x: 3.0 / x, EDGES),
    "quotient of tensors": ("div", lambda x: torch.div(x + 1, x), EDGES),
    "quotient in place": ("div", lambda x: torch.ones_like(x).div_(x), EDGES),
    "reciprocal": ("reciprocal", lambda x: x.reciprocal(), EDGES),
    "exp": ("exp", lambda x: x.exp(), torch.tensor([80.0, 100.0, 1e30])),
    "acos": ("acos", torch.arccos, EDGES),
    "asin": ("asin", lambda x: x.asin(), EDGES),
    "atanh": ("atanh", lambda x: x.atanh(), EDGES),
}


def finite(call: Callable[[Tensor], Tensor], x: Tensor) -> bool:
    """Whether the value and its gradient are, at every number."""
    leaf = x.clone().requires_grad_()
    value = call(leaf)
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return bool(torch.isfinite(value).all() and torch.isfinite(gradient).all())


@pytest.mark.parametrize("name", CALLS)
def test_the_same_on_ordinary_numbers(name: str) -> None:
    """Bit for bit within the domain; finite, with its gradient, on the edge and beyond."""
    op, call, edges = CALLS[name]
    safe = rewrite_of({"op": op})
    assert safe is not None
    assert not finite(call, edges)
    with safe.mode():
        within = call(ORDINARY)
        assert finite(call, edges)
    assert torch.equal(within, call(ORDINARY))
    assert not finite(call, edges)


def test_whole_powers_are_left_alone() -> None:
    """The square of a negative number is in order: another form would change the training."""
    safe = rewrite_of({"op": "pow"})
    assert safe is not None
    with safe.mode():
        assert (torch.tensor([-3.0]) ** 2).tolist() == [9.0]
        assert torch.pow(torch.tensor([-3.0]), torch.tensor([3.0])).tolist() == [-27.0]


def test_signs_are_kept() -> None:
    """A small negative divisor stays negative."""
    safe = rewrite_of({"op": "div"})
    assert safe is not None
    with safe.mode():
        assert float(torch.tensor(1.0) / torch.tensor(-1e-12)) == pytest.approx(-1e6)


@pytest.mark.parametrize(
    "origin", [{"op": "mm"}, {"op": "log", "custom": True}, {"op": "log", "hook": True}, {}]
)
def test_no_form_that_fits_all_uses(origin: dict[str, object]) -> None:
    """An operation without one, and code of the user's own."""
    assert rewrite_of(origin) is None


def test_others_are_not_touched() -> None:
    """What has another name is called as it was."""
    safe = rewrite_of({"op": "log"})
    assert safe is not None
    with safe.mode():
        assert EDGES.sqrt().isnan().sum() == 1
        assert torch.log1p(torch.tensor(-1.0)).isinf()
