"""What is in an HDF5 file, as plain values: all that the rest of the reader knows of HDF5."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

Attribute = str | int | float


@dataclass(frozen=True)
class Stored:
    """A numeric dataset: where its bytes are and what they are.

    Attributes:
        shape: lengths of its dimensions.
        dtype: type of an element as numpy spells it, such as `<f4`.
        offset: of its first byte in the file; None where it is stored in chunks (or has no element).
        chunks: shape of a chunk, None where it is contiguous.
        filters: what each chunk went through when it was written, in this order: `shuffle`, `deflate` or
            `fletcher32`.
    """

    shape: tuple[int, ...]
    dtype: str
    offset: int | None
    chunks: tuple[int, ...] | None = None
    filters: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Size of all elements in bytes, stored or not."""
        return int(self.dtype[-1]) * math.prod(self.shape)


@dataclass(frozen=True)
class Inventory:
    """The known attributes, the texts and the places of the numbers of one file.

    Attributes:
        attributes: of the root, by name; only those that the format knows.
        texts: every string dataset, flattened, by its path without the leading slash; a scalar is a list of
            one.
        arrays: every numeric dataset by its path.
    """

    attributes: Mapping[str, Attribute]
    texts: Mapping[str, list[str]] = field(default_factory=dict)
    arrays: Mapping[str, Stored] = field(default_factory=dict)
