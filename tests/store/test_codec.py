"""Chunks as HDF5 stores them, and rounding to 12 bits, against libhdf5 and a slow oracle."""

import io
import math
import struct
import zlib

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanscope.run import MISSING, MISSING_BITS, Floats
from nanscope.store.compaction.codec import is_empty, pack, rounded, unpack
from tests.store.files import bits, pattern


@pytest.mark.parametrize("dtype", ["<f4", "<i8", "<f8"])
@pytest.mark.parametrize("count", [1, 7, 4096])
def test_libhdf5_makes_and_reads_the_same_bytes(dtype: str, count: int) -> None:
    """What its filters store is what we read, and the other way round."""
    values = pattern(0, count, 2).reshape(-1).view(dtype)
    with h5py.File(io.BytesIO(), "w") as file:
        theirs = file.create_dataset("a", data=values, chunks=values.shape, shuffle=True, compression="gzip")
        out = np.empty_like(values)
        assert unpack(theirs.id.read_direct_chunk((0,))[1], out)
        np.testing.assert_array_equal(out.view("u1"), values.view("u1"))
        ours = file.create_dataset(
            "b", values.shape, dtype, chunks=values.shape, shuffle=True, compression="gzip"
        )
        ours.id.write_direct_chunk((0,), pack(values))
        np.testing.assert_array_equal(ours[()].view("u1"), values.view("u1"))


def test_a_chunk_of_another_size_is_told() -> None:
    """Too few bytes, too many (a bomb of 100 MB is not inflated), and bytes that are no chunk."""
    out = np.empty(1000, np.float32)
    assert not unpack(pack(out[:-1]), out)
    assert not unpack(pack(np.zeros(1001, np.float32)), out)
    assert not unpack(zlib.compress(bytes(100_000_000)), out)
    assert not unpack(b"no chunk", out)
    assert not unpack(b"", out)
    assert unpack(pack(out), out)


def test_only_missing_is_empty() -> None:
    """A NaN that was measured is no gap."""
    values = np.full(10, MISSING, np.float32)
    assert is_empty(values)
    values[3] = np.nan
    assert not is_empty(values)


def oracle(value: float) -> float:
    """The nearest number with 12 bits after the first one, ties to even, by exact arithmetic."""
    if value == 0 or not math.isfinite(value) or abs(value) < 2.0**-126:
        return value
    unit = 2.0 ** (math.frexp(value)[1] - 1 - 12)
    near = round(value / unit) * unit  # exact in doubles; Python's round() goes to even
    largest = (2 - 2.0**-12) * 2.0**127
    return math.copysign(min(abs(near), largest), value)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50))
def test_rounding_is_to_nearest_even(words: list[int]) -> None:
    """Any bits: as the oracle says; what is no ordinary number keeps every bit."""
    values = np.array(words, np.uint32).view(np.float32)
    assert_rounded(values)


def test_rounding_at_the_edges() -> None:
    """Ties, carries into the next power of two, the largest and the smallest numbers, all payloads of NaN."""
    words = [0x3F800000 + (i << 10) + d for i in range(8) for d in (-1, 0, 1)]
    words += [0x7F7FFFFF, 0x7F7FFC00, 0x7F7FFBFF, 0x00800000, 0x007FFFFF, 0x00000001, 0x3FFFFFFF, 0x7F800000]
    words += [MISSING_BITS, 0x7FC00000, 0x7F800001, 0x7FFFFFFF]
    values = np.array([*words, *(word | 0x80000000 for word in words)], np.uint32).view(np.float32)
    assert_rounded(values)


def assert_rounded(values: Floats) -> None:
    """As the oracle says."""
    expected = [
        word if math.isnan(value) else struct.unpack("<I", struct.pack("<f", oracle(value)))[0]
        for word, value in zip(bits(values).tolist(), values.tolist(), strict=True)
    ]
    np.testing.assert_array_equal(bits(rounded(values)), np.array(expected, np.uint32))
