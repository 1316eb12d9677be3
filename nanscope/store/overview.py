"""The overview of a column, from its pyramid: the same for live and compacted files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from nanscope.run import Floats, Overview
from nanscope.store.pyramid import HIGH, INF, LOW, MEAN, NAN, coarsen, summarise


class Table(Protocol):
    """Rows with a pyramid."""

    @property
    def rows(self) -> int:
        """Number of rows."""

    @property
    def levels(self) -> Mapping[str, int]:
        """The pyramid: name of each level and rows per bucket, fine to coarse."""

    @property
    def thins(self) -> bool:
        """Whether the values of some rows may be gone, so that only summaries know them."""

    def column(self, index: int, start: int, stop: int) -> Floats:
        """Values of one column, shape (stop - start,)."""

    def cells(self, level: str, index: int) -> Floats:
        """One column at one level, shape (quantities, buckets)."""


def overview(table: Table, index: int, bucket: int) -> Overview:
    """One column in buckets of about `bucket` rows: a multiple of a level, or made of the values."""
    levels = list(table.levels.items())
    fitting = [(name, rows) for name, rows in levels if rows <= bucket]
    if not fitting and table.thins:
        fitting = levels[:1]
    if not fitting:
        return _overview(summarise(table.column(index, 0, table.rows)[:, None], bucket)[0], bucket)
    name, rows = fitting[-1]
    factor = max(1, round(bucket / rows))
    cells = table.cells(name, index)
    return _overview(coarsen(cells, factor) if cells.size else cells, rows * factor)


def _overview(cells: Floats, bucket: int) -> Overview:
    counted = np.nan_to_num(cells[NAN] + cells[INF])  # a damaged file may hold anything
    nonfinite = np.clip(counted, 0, 2**31).astype(np.uint32)
    starts = bucket * np.arange(cells.shape[-1], dtype=np.int64)
    return Overview(bucket, starts, cells[LOW].copy(), cells[HIGH].copy(), cells[MEAN].copy(), nonfinite)
