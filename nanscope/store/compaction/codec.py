"""Chunks of numbers as HDF5's shuffle and deflate filters store them, made and read without libhdf5.

Shuffle puts the first bytes of all values first, then all second bytes and so on (HDF5 specification, filter
2); deflate is zlib's format (filter 1). Both are in every HDF5 library, so that any program reads the file.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanscope.run import MISSING_BITS, Floats

LEVEL = 1  # of zlib: higher ones take twice the time for 4 % less

MANTISSA = 12  # bits of 23 that lossy compaction keeps
_DROPPED = 23 - MANTISSA
_INFINITE = np.uint32(0x7F800000)


def pack(values: NDArray[Any]) -> bytes:
    """Values, contiguous and of any shape, as the bytes of a chunk."""
    planes = values.reshape(-1).view(np.uint8).reshape(-1, values.itemsize).T
    return zlib.compress(np.ascontiguousarray(planes).data, LEVEL)


def unpack(data: bytes, out: NDArray[Any]) -> bool:
    """Fill `out`, contiguous, with the values of a chunk; never makes more bytes than that.

    Returns:
        Whether the chunk held exactly so many bytes.
    """
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(data, out.nbytes + 1)
    except zlib.error:
        return False
    if len(plain) != out.nbytes:
        return False
    target = out.reshape(-1).view(np.uint8).reshape(-1, out.itemsize)
    for i, plane in enumerate(np.frombuffer(plain, np.uint8).reshape(out.itemsize, -1)):
        target[:, i] = plane  # twice as fast as the transposed whole
    return True


def is_empty(values: Floats) -> bool:
    """Whether all values are MISSING, so that no chunk is needed."""
    return bool((values.view(np.uint32) == MISSING_BITS).all())


def rounded(values: Floats) -> Floats:
    """Values with 12 bits of mantissa, to nearest, ties to even: a relative error of at most 2**-13.

    NaN and MISSING keep their payloads; infinities, zeros and subnormals stay as they are, and no finite
    value becomes infinite.
    """
    bits = np.ascontiguousarray(values).view(np.uint32)
    even = (bits >> np.uint32(_DROPPED)) & np.uint32(1)
    mask = np.uint32(~((1 << _DROPPED) - 1) & 0xFFFFFFFF)
    exponent = bits & _INFINITE
    normal = (exponent != 0) & (exponent != _INFINITE)
    # a carry out of the mantissa rightly raises the exponent
    near = np.where(normal, bits + np.uint32((1 << (_DROPPED - 1)) - 1) + even, bits) & mask
    near = np.where(near & _INFINITE == _INFINITE, bits & mask, near)
    return np.where(normal, near, bits).view(np.float32)
