"""Several parts of a run as one `Source`: their rows one after the other, the union of their columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanscope.run import MISSING, Column, Floats, Overview, Source
from nanscope.store.source import merged

Key = tuple[str, str, str]


@dataclass(frozen=True)
class Piece:
    """Rows of one part: its source, its first row in the run, and where its columns are in the union."""

    source: Source
    first: int
    places: NDArray[np.intp]

    @property
    def stop(self) -> int:
        """The row after its last one."""
        return self.first + self.source.rows


def join(parts: Sequence[tuple[Sequence[Column], Source]]) -> tuple[tuple[Column, ...], Source]:
    """Columns and rows of a run in parts.

    A column is known by site name, kind and stat: a layer that grew goes on in its column. What a part did
    not record reads as MISSING.
    """
    if len(parts) == 1:
        return tuple(parts[0][0]), parts[0][1]
    union: dict[Key, Column] = {}
    for columns, _ in parts:
        union.update({key(column): column for column in columns if column.stat})
    place = {name: i for i, name in enumerate(union)}
    pieces: list[Piece] = []
    for columns, source in parts:
        places = np.array([place.get(key(column), -1) for column in columns], np.intp)
        pieces.append(Piece(source, pieces[-1].stop if pieces else 0, places))
    return tuple(union.values()), JoinedSource(pieces, len(union))


def key(column: Column) -> Key:
    """What a column keeps from part to part."""
    return ("", "", column.stat) if column.site is None else (column.site.name, column.site.kind, column.stat)


class JoinedSource:
    """Rows of all pieces, numbered through."""

    def __init__(self, pieces: Sequence[Piece], columns: int) -> None:
        self._pieces = pieces
        self._columns = columns

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self._pieces[-1].stop

    def whole(self) -> tuple[tuple[int, int], ...]:
        """Ranges of rows whose values are kept."""
        ranges = ((piece.first, bounds) for piece in self._pieces for bounds in piece.source.whole())
        return merged([(first + start, first + stop) for first, (start, stop) in ranges])

    def column(self, index: int, start: int, stop: int) -> Floats:
        """One column, shape (stop - start,)."""
        out = np.full(stop - start, MISSING, np.float32)
        for piece, low, high in self._touched(start, stop):
            local = _local(piece, index)
            if local is not None:
                values = piece.source.column(local, low - piece.first, high - piece.first)
                out[low - start : high - start] = values
        return out

    def block(self, start: int, stop: int) -> Floats:
        """All columns, shape (stop - start, columns)."""
        out = np.full((stop - start, self._columns), MISSING, np.float32)
        for piece, low, high in self._touched(start, stop):
            known = piece.places >= 0
            values = piece.source.block(low - piece.first, high - piece.first)
            out[low - start : high - start, piece.places[known]] = values[:, known]
        return out

    def steps(self, start: int, stop: int) -> NDArray[np.int64]:
        """Step numbers, shape (stop - start,)."""
        return self._numbers(start, stop, lambda source, low, high: source.steps(low, high), np.int64)

    def times(self, start: int, stop: int) -> NDArray[np.float64]:
        """Seconds since the run began, shape (stop - start,)."""
        return self._numbers(start, stop, lambda source, low, high: source.times(low, high), np.float64)

    def overview(self, index: int, bucket: int) -> Overview:
        """One column in buckets; no bucket reaches from one part into the next."""
        views = [_overview(piece, index, bucket) for piece in self._pieces if piece.source.rows]
        if not views:
            return self._pieces[0].source.overview(0, bucket)
        parts = [(v.starts, v.low, v.high, v.mean, v.nonfinite) for v in views]
        starts, low, high, mean, nonfinite = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return Overview(max(v.bucket for v in views), starts, low, high, mean, nonfinite)

    def _numbers(
        self, start: int, stop: int, read: Callable[[Source, int, int], NDArray[Any]], dtype: type
    ) -> NDArray[Any]:
        out: NDArray[Any] = np.empty(stop - start, dtype)
        for piece, low, high in self._touched(start, stop):
            out[low - start : high - start] = read(piece.source, low - piece.first, high - piece.first)
        return out

    def _touched(self, start: int, stop: int) -> Iterator[tuple[Piece, int, int]]:
        """The pieces that rows start..stop touch, with the first and last of these rows in each."""
        for piece in self._pieces:
            low, high = max(start, piece.first), min(stop, piece.stop)
            if low < high:
                yield piece, low, high


def _local(piece: Piece, index: int) -> int | None:
    found = np.flatnonzero(piece.places == index)
    return int(found[0]) if found.size else None


def _overview(piece: Piece, index: int, bucket: int) -> Overview:
    local = _local(piece, index)
    if local is None:
        starts = np.arange(0, piece.source.rows, bucket, dtype=np.int64)
        nothing = np.full(starts.shape, np.nan, np.float32)
        return Overview(
            bucket, starts + piece.first, nothing, nothing, nothing, np.zeros(starts.shape, np.uint32)
        )
    view = piece.source.overview(local, bucket)
    return Overview(view.bucket, view.starts + piece.first, view.low, view.high, view.mean, view.nonfinite)
