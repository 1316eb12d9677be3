"""Norms against float64: of tensors of any kind, and of weight gradients from inner products."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nanscope.recording import gram, stats

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SHAPES = st.lists(st.integers(0, 6), max_size=4).map(tuple)


def truth(tensor: Tensor) -> float:
    """The norm in float64, by numpy."""
    return float(np.linalg.norm(tensor.detach().double().numpy().ravel()))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(SHAPES, st.sampled_from(DTYPES), st.integers(0, 99)), min_size=1, max_size=5))
def test_norms_of_any_tensors(kinds: list[tuple[tuple[int, ...], torch.dtype, int]]) -> None:
    """Any shape, empty and of no dimensions too, any dtype: the norm of the numbers that are there."""
    tensors = [
        torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
        for shape, dtype, seed in kinds
    ]
    expected = [truth(tensor) for tensor in tensors]
    assert stats.norms(tensors).tolist() == pytest.approx(expected, rel=5e-6)


@pytest.mark.parametrize("elements", [200_000, 262_144, 262_145, 3_000_001])
@pytest.mark.parametrize("dtype", DTYPES)
def test_norms_of_long_tensors(elements: int, dtype: torch.dtype) -> None:
    """Float32 sums of millions of squares would be off by 1e-4."""
    tensor = torch.rand(elements, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert stats.norms([tensor]).item() == pytest.approx(truth(tensor), rel=5e-6)


@pytest.mark.parametrize("elements", [1_000, 4_096, 4_097, 16_384, 200_000, 5_000_000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_norms_of_equal_numbers(elements: int, dtype: torch.dtype) -> None:
    """The worst case of a sum in float32: every addition errs the same way."""
    for value in torch.linspace(0.5, 2, 8).tolist():
        tensor = torch.full((elements,), value).to(dtype)
        assert stats.norms([tensor]).item() == pytest.approx(truth(tensor), rel=8e-6)


def test_norms_of_nothing() -> None:
    """No tensors, and tensors without elements."""
    assert stats.norms([]).shape == (0,)
    assert stats.norms([torch.empty(0, 3), torch.empty(5, 0)]).tolist() == [0, 0]


def test_norms_in_their_order() -> None:
    """Long and short, of several dtypes, mixed."""
    generator = torch.Generator().manual_seed(0)
    sizes = (3, 9_000, 5, 20_000, 1)
    tensors = [torch.randn(n, generator=generator).to(d) for n in sizes for d in DTYPES]
    assert stats.norms(tensors).tolist() == pytest.approx([truth(t) for t in tensors], rel=5e-6)


def _laid_out() -> list[Tensor]:
    base = torch.randn(16, 24, 20, 20, generator=torch.Generator().manual_seed(0))
    return [
        base,
        base.to(memory_format=torch.channels_last),
        base.permute(3, 1, 0, 2),
        base[:, ::2],
        base[:, :1].expand(16, 24, 20, 20),
        base.as_strided((400, 400), (1, 1)),
        torch.full((8_000, 2), 0.7)[:, 0],
        torch.full((100, 100), 0.7).t(),
        torch.full((1,), 0.7).expand(3_000_000),
        base[:1, :, :1].half().expand(16, 24, 20, 20),
    ]


@pytest.mark.parametrize("number", range(10))
def test_norms_of_any_strides(number: int) -> None:
    """Permuted, sliced, expanded, overlapping."""
    tensor = _laid_out()[number]
    assert stats.norms([tensor]).item() == pytest.approx(truth(tensor), rel=5e-6)


@pytest.mark.parametrize("elements", [1_000, 300_000])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30])
def test_what_float32_cannot_square_is_seen(elements: int, bad: float) -> None:
    """One NaN, inf or number beyond 1.8e19 makes the quick norm non-finite, so that it is examined."""
    tensor = torch.ones(elements)
    tensor[elements // 3] = bad
    assert not math.isfinite(stats.norms([tensor]).item())
    if math.isfinite(bad):
        assert stats.examine(tensor).l2 == pytest.approx(bad)


@pytest.mark.parametrize("elements", [0, 5, 300_001])
@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e30])
def test_what_is_examined(elements: int, scale: float) -> None:
    """Norms in float64 of what float32 cannot square, and of what it can; all elements counted as finite."""
    tensor = torch.rand(elements, generator=torch.Generator().manual_seed(0)) * scale
    exact = stats.examine(tensor)
    assert exact.l2 == pytest.approx(truth(tensor), rel=1e-12)
    assert (exact.nan_count, exact.inf_count) == (0, 0)


def test_non_finite_elements_are_counted() -> None:
    """Both kinds, in a long tensor."""
    tensor = torch.ones(300_001)
    tensor[:3], tensor[-2:] = math.nan, -math.inf
    exact = stats.examine(tensor)
    assert (exact.nan_count, exact.inf_count) == (3, 2)


def gradient_of(x: Tensor, d: Tensor) -> Tensor:
    """The weight gradient that autograd makes of an input and an output gradient."""
    layer = nn.Linear(x.shape[-1], d.shape[-1])
    layer(x).backward(d)
    assert layer.weight.grad is not None
    return layer.weight.grad


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=2),
    st.integers(1, 40),
    st.integers(1, 40),
    st.floats(0, 1),
    st.integers(0, 999),
)
def test_inner_products(rows: list[int], outputs: int, inputs: int, alike: float, seed: int) -> None:
    """Samples from independent to opposed: 1e-5, or nothing."""
    generator = torch.Generator().manual_seed(seed)
    x, d = (torch.randn(*rows, width, generator=generator) for width in (inputs, outputs))
    flat_x, flat_d = x.view(-1, inputs), d.view(-1, outputs)
    flat_x[1::2] = alike * flat_x[0] + (1 - alike) * flat_x[1::2]
    flat_d[1::2] = -alike * flat_d[0] + (1 - alike) * flat_d[1::2]
    square = gram.squared_norm(d, x)
    if square is not None:
        expected = truth(flat_d.double().T @ flat_x.double())
        assert math.sqrt(square) == pytest.approx(expected, rel=1e-5)


def test_inner_products_are_used() -> None:
    """Independent samples do not cancel; autograd's gradient has the norm found."""
    generator = torch.Generator().manual_seed(0)
    x, d = torch.randn(16, 300, generator=generator), torch.randn(16, 200, generator=generator)
    square = gram.squared_norm(d, x)
    assert square is not None
    assert math.sqrt(square) == pytest.approx(truth(gradient_of(x, d)), rel=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 2e38])
def test_inner_products_of_what_is_not_finite(bad: float) -> None:
    """Nothing is said where the products are not finite: the gradient itself is looked at."""
    x, d = torch.ones(4, 30), torch.ones(4, 30)
    x[2, 3] = bad
    assert gram.squared_norm(d, x) is None


@pytest.mark.parametrize(
    ("d_scale", "x_scale"), [(1e-22, 1), (1e-12, 1e-12), (1e18, 1e-30), (1, 1e25), (0, 1)]
)
def test_inner_products_of_any_size(d_scale: float, x_scale: float) -> None:
    """Squares that float32 does not hold; no gradient at all."""
    generator = torch.Generator().manual_seed(0)
    d = torch.randn(8, 60, generator=generator) * d_scale
    x = torch.randn(8, 90, generator=generator) * x_scale
    square = gram.squared_norm(d, x)
    assert square is not None
    assert math.sqrt(square) == pytest.approx(truth(gradient_of(x, d)), rel=1e-5)


@pytest.mark.parametrize("d_scale", [1e-18, 1e20])
def test_gradients_that_float32_does_not_hold(d_scale: float) -> None:
    """Elements that become 0 or infinite in the gradient, though the factors are finite: nothing is said."""
    d, x = torch.ones(4, 30) * d_scale, torch.ones(4, 30) * d_scale
    assert gram.squared_norm(d, x) is None


@pytest.mark.parametrize("left", [1.0, 0.5, 0.25, 0.1, 0.03])
def test_inner_products_of_constant_rows(left: float) -> None:
    """Rows of equal numbers that cancel to a share: products in float32 would be off by 4e-5."""
    generator = torch.Generator().manual_seed(0)
    for rows in (2, 5, 16):
        x = (torch.rand(rows, 1, generator=generator) + 0.5).expand(rows, 2048).contiguous()
        d = torch.rand(rows, 1, generator=generator).expand(rows, 320)
        d = (d - d.mean(0) * (1 - left)).contiguous()
        square = gram.squared_norm(d, x)
        most = float((d.double().norm(dim=1) * x.double().norm(dim=1)).sum())
        expected = truth(gradient_of(x, d))
        assert (square is None) == (most > gram.MOST_CANCELLED**0.5 * expected)
        assert square is None or math.sqrt(square) == pytest.approx(expected, rel=1e-5)


def test_cancelling_samples_give_nothing() -> None:
    """Two samples whose gradients cancel to rounding."""
    x = torch.ones(2, 50)
    d = torch.stack((torch.ones(40), -torch.ones(40) * (1 + 1e-6)))
    assert gram.squared_norm(d, x) is None


def test_what_pays() -> None:
    """Few rows of a wide layer, not many, and not of a narrow one."""
    assert gram.pays(8, 1024, 1024)
    assert not gram.pays(64, 1024, 1024)
    assert not gram.pays(8, 64, 64)
