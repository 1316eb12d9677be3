"""Rows of a step with a loss scale: what is divided, what stays, what is lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanscope.recording.scaling import scaled_positions, unscale
from nanscope.run import MISSING, Column, is_missing
from nanscope.values import Kind, Site

COLUMNS = (
    *(
        Column(Site("fc", kind), stat)
        for kind in Kind
        for stat in ("l2", "abs_max", "nan_count", "inf_count")
    ),
    *(Column(None, name) for name in ("loss", "lr", "loss_scale", "skipped", "")),
)


def test_what_a_scale_multiplies() -> None:
    """Loss and the norms and maxima of gradients; no counts, weights, outputs or other scalars."""
    chosen = [COLUMNS[i] for i in scaled_positions(COLUMNS)]
    assert {(c.site and str(c.site), c.stat) for c in chosen} == {
        (None, "loss"),
        *((name, stat) for name in ("fc.grad_output", "fc.grad") for stat in ("l2", "abs_max")),
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.floats(width=32), min_size=1, max_size=5),
    st.lists(st.one_of(st.sampled_from([0.0, 1.0, 65536.0, 2.0**-149]), st.floats(0, width=32)), max_size=5),
)
def test_against_longdouble(dtype: type, values: list[float], scales: list[float]) -> None:
    """Every kind of number and scale, against a quotient in extended precision, cell by cell."""
    rows = np.tile(np.array([7.0, *values, MISSING], dtype), (len(scales), 1))
    before = rows.copy()
    unscale(rows, np.arange(1, rows.shape[1]), np.array(scales))
    top = np.finfo(dtype).max
    for i, scale in enumerate(scales):
        assert rows[i, 0] == 7.0
        assert is_missing(rows[i, -1:].astype(np.float32))[0]
        for old, new in zip(before[i, 1:-1], rows[i, 1:-1], strict=True):
            if not np.isfinite(old) or scale == 1 or not np.isfinite(scale):
                assert new == old or (np.isnan(new) and np.isnan(old))
            elif scale == 0:
                assert is_missing(np.array([new], np.float32))[0]
            else:
                true = np.clip(np.longdouble(old) / np.longdouble(scale), -top, top)
                assert abs(new - true) <= 1e-6 * abs(true) + np.finfo(dtype).smallest_subnormal


def test_rows_of_different_scales() -> None:
    """The same loss at three scales is the same loss."""
    rows = np.array([[2.5 * 4], [2.5], [2.5 * 65536]], np.float32)
    unscale(rows, np.array([0]), np.array([4, 1, 65536.0]))
    assert rows.ravel().tolist() == [2.5] * 3
