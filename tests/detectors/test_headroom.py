"""NS306: values near the largest number of their dtype."""

from __future__ import annotations

import numpy as np
import pytest

from nanscope.detectors.headroom import LIMITS, headroom
from nanscope.run import Run
from nanscope.values import Kind
from tests.builders import make_run


def with_max(values: list[float | None], dtype: str) -> Run:
    """One output with these largest values."""
    stats = {(Kind.OUTPUT, "a", "abs_max"): values}
    return make_run(outputs={"a": np.ones(len(values))}, stats=stats, dtype=dtype)


@pytest.mark.parametrize(("dtype", "value"), [("float16", 3e4), ("float32", 1e36), ("bfloat16", 1e36)])
def test_near_the_limit(dtype: str, value: float) -> None:
    """The largest value, its step and the factor that is left."""
    (found,) = headroom(with_max([1, None, value, None], dtype))
    assert found.step == 2
    assert found.evidence["room"] == pytest.approx(LIMITS[dtype] / value, rel=1e-5)


@pytest.mark.parametrize(
    ("dtype", "value"), [("float16", 4000), ("float32", 1e20), ("bfloat16", 3e4), ("float64", 1e38)]
)
def test_room_enough(dtype: str, value: float) -> None:
    """Near miss: large, and harmless in this dtype."""
    assert not list(headroom(with_max([1, value], dtype)))


def test_limits_against_numpy() -> None:
    """The table agrees with numpy's; bfloat16 is (2 - 2**-7) * 2**127."""
    assert LIMITS["float16"] == float(np.finfo(np.float16).max)
    assert LIMITS["float32"] == float(np.finfo(np.float32).max)
    assert LIMITS["bfloat16"] == (2 - 2**-7) * 2.0**127
