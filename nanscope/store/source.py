"""The rows of a run file as a `Source`: blocks from the file, the rest from the ring as it was at opening."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from nanscope.run import MISSING, Floats, Overview
from nanscope.store.overview import overview
from nanscope.store.pyramid import QUANTITIES, summarise
from nanscope.store.raw import RawFile
from nanscope.store.recover import Recovered
from nanscope.store.schema import INDEX_WORDS

T = TypeVar("T", bound=np.generic)

GROUP_BYTES, GROUPS = 4 << 20, 8  # columns of the pyramid that are read together; so many groups are kept


class FileSource:
    """A consistent table: later rows of a live run are not in it.

    Values that the file does not keep, or no longer, read as MISSING.
    """

    def __init__(self, raw: RawFile, recovered: Recovered) -> None:
        self._raw = raw
        self._layout = raw.layout
        self._recovered = recovered
        self._blocks: list[int] = recovered.blocks.tolist()
        self._slots: dict[int, int] = dict(zip(self._blocks, recovered.slots.tolist(), strict=True))
        self._groups: dict[tuple[str, int], Floats] = {}  # by level and number
        self._edge = len(self._blocks) * raw.layout.block  # the first row that no block holds

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self._edge + len(self._recovered.values)

    def whole(self) -> tuple[tuple[int, int], ...]:
        """Ranges of rows whose values are kept."""
        block = self._layout.block
        kept = [i for i, number in enumerate(self._blocks) if self._slots[number] >= 0]
        ranges = [(i * block, (i + 1) * block) for i in kept]
        return merged([*ranges, (self._edge, self.rows)])

    def column(self, index: int, start: int, stop: int) -> Floats:
        """One column, shape (stop - start,)."""
        numbers, skip = self._blocks_of(start, stop)
        stored = np.full((len(numbers), self._layout.block), MISSING, np.float32)
        for out, number in zip(stored, numbers, strict=True):
            self._read_values(number, index, out)
        return self._joined(stored.reshape(-1)[skip:], self._recovered.values[:, index], start, stop)

    def block(self, start: int, stop: int) -> Floats:
        """All columns, shape (stop - start, columns)."""
        block, columns = self._layout.block, self._layout.columns
        out = np.full((stop - start, columns), MISSING, np.float32)
        numbers, skip = self._blocks_of(start, stop)
        first = start - skip
        for number in numbers:
            stored = np.full((columns, block), MISSING, np.float32)
            self._read_values(number, 0, stored)
            low, high = max(start, first), min(stop, first + block)
            out[low - start : high - start] = stored[:, low - first : high - first].T
            first += block
        if stop > self._edge:
            low = max(start, self._edge)
            out[low - start :] = self._recovered.values[low - self._edge : stop - self._edge]
        return out

    def _read_values(self, number: int, column: int, out: Floats) -> None:
        """Fill `out` with columns of a block, from `column` on, if the file keeps them."""
        slot = self._slots[number]
        if slot < 0:
            return
        start = 4 * self._layout.block * (slot * self._layout.columns + column)
        self._raw.read_into("series/blocks", out, start)
        if self.thins and not self._holds(number, slot):
            out[:] = MISSING

    def _holds(self, number: int, slot: int) -> bool:
        """Whether a slot still holds a block: a writer at work may have given it to another meanwhile."""
        entry = self._raw.read("live/index", "<u4", INDEX_WORDS, 4 * INDEX_WORDS * number)
        return int(entry[2]) == slot + 1

    def steps(self, start: int, stop: int) -> NDArray[np.int64]:
        """Step numbers, shape (stop - start,)."""
        stored = self._per_row("series/step", "<i8", start, stop)
        return self._joined(stored, self._recovered.steps, start, stop)

    def times(self, start: int, stop: int) -> NDArray[np.float64]:
        """Seconds since the run began, shape (stop - start,)."""
        stored = self._per_row("series/time", "<f8", start, stop)
        return self._joined(stored, self._recovered.times, start, stop)

    @property
    def levels(self) -> Mapping[str, int]:
        """The pyramid: name of each level and rows per bucket, fine to coarse."""
        return self._layout.levels

    @property
    def thins(self) -> bool:
        """Whether the values of some rows may be gone, so that only summaries know them."""
        return self._layout.slots < self._layout.blocks

    def overview(self, index: int, bucket: int) -> Overview:
        """One column in buckets of about `bucket` rows: a multiple of a level of the pyramid."""
        return overview(self, index, bucket)

    def cells(self, level: str, index: int) -> Floats:
        """One column at one level, shape (quantities, buckets)."""
        rows = self._layout.levels[level]
        tail = summarise(self._recovered.values[:, index : index + 1], rows)[0]
        stored = self._stored_cells(level, index, self._layout.block // rows)
        return np.concatenate([stored.transpose(1, 0, 2).reshape(len(QUANTITIES), -1), tail], axis=1)

    def _stored_cells(self, level: str, index: int, cells: int) -> Floats:
        """Of the blocks, shape (blocks, quantities, buckets of a block).

        Neighbouring columns are read together and kept: a screen asks for them next, and a read of a few
        columns takes no longer than that of one.
        """
        size = len(QUANTITIES) * cells
        width = min(self._layout.columns, max(1, GROUP_BYTES // (4 * size * max(1, len(self._blocks)))))
        group = index // width
        columns = self._groups.get((level, group))
        if columns is None:
            columns = self._read_group(level, group * width, width, size)
            if len(self._groups) >= GROUPS:
                self._groups.pop(next(iter(self._groups)), None)
            self._groups[level, group] = columns
        return columns[:, index - group * width].reshape(-1, len(QUANTITIES), cells)

    def _read_group(self, level: str, first: int, width: int, size: int) -> Floats:
        """Some columns of a level, shape (blocks, columns, size); finished blocks do not change."""
        count = min(width, self._layout.columns - first)
        starts = [4 * size * (number * self._layout.columns + first) for number in self._blocks]
        return self._raw.stripes(level, "<f4", starts, size * count).reshape(-1, count, size)

    def _blocks_of(self, start: int, stop: int) -> tuple[list[int], int]:
        """The blocks that rows start..stop touch, and how far into the first one `start` is."""
        block = self._layout.block
        stop = min(stop, self._edge)
        if start >= stop:
            return [], 0
        return self._blocks[start // block : -(-stop // block)], start % block

    def _per_row(self, dataset: str, dtype: str, start: int, stop: int) -> NDArray[Any]:
        block = self._layout.block
        numbers, skip = self._blocks_of(start, stop)
        stored = self._raw.stripes(dataset, dtype, [8 * block * number for number in numbers], block)
        return stored.reshape(-1)[skip:]

    def _joined(self, stored: NDArray[T], tail: NDArray[T], start: int, stop: int) -> NDArray[T]:
        kept = tail[max(0, start - self._edge) : max(0, stop - self._edge)]
        if not len(stored):
            return kept.copy()
        return np.concatenate([stored, kept])[: stop - start] if len(kept) else stored[: stop - start]


def merged(ranges: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Rising ranges, with those that touch made one and empty ones left out."""
    out: list[tuple[int, int]] = []
    for start, stop in ranges:
        if out and out[-1][1] == start:
            out[-1] = out[-1][0], stop
        elif start < stop:
            out.append((start, stop))
    return tuple(out)
