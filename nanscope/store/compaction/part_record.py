"""What a compacted file says of the parts that it was made of, and of their end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nanscope.store.head import STATES
from nanscope.store.text import clean

LEVELS = ("pyramid/x64", "pyramid/x512", "pyramid/block")
LEAST_BUCKET = 16  # rows: bounds what one overview may take
KILLED = "killed"


@dataclass(frozen=True)
class PartRecord:
    """What the file says of one of the parts that it was made of.

    Attributes:
        rows: number of rows.
        levels: its pyramid, fine to coarse: name and rows per bucket.
        thins: whether the values of some rows may be gone.
        whole: ranges of rows whose values are kept.
        columns: the columns of the run that this part recorded.
    """

    rows: int
    levels: Mapping[str, int]
    thins: bool
    whole: tuple[tuple[int, int], ...]
    columns: tuple[int, ...]


def buckets(part: PartRecord, level: str) -> int:
    """Buckets that a part has at a level."""
    return -(-part.rows // part.levels[level]) if level in part.levels else 0


def short(level: str) -> str:
    """Name of a level below /chunks."""
    return level.removeprefix("pyramid/")


def parse_ending(value: Any) -> tuple[str, tuple[str, ...]]:
    """State of the run and what was lost, from JSON of any origin.

    Raises:
        ValueError, AttributeError: it is no such thing.
    """
    match value:
        case {"state": str(state), "lost": list(lost)} if state in (*STATES[1:], KILLED):  # all but "live"
            return state, tuple(map(clean, lost))
    raise ValueError("an end that no compacted run has")


def parse_part(value: Any, columns: int) -> PartRecord:
    """The record of a part from JSON of any origin; `columns` is the number of columns of the run.

    Raises:
        ValueError, TypeError: it is no such thing.
    """
    match value:
        case {
            "rows": int(rows),
            "levels": dict(levels),
            "thins": bool(thins),
            "whole": list(whole),
            "columns": list(places),
        }:
            part = PartRecord(
                rows, levels, thins, tuple((start, stop) for start, stop in whole), tuple(places)
            )
        case _:
            raise ValueError("no part")
    edges = [0, *(edge for edges in part.whole for edge in edges), rows]
    sizes = [levels[name] for name in LEVELS if name in levels]
    sound = (
        all(type(number) is int for number in (*edges, *sizes, *places)),
        edges == sorted(edges),
        all(0 <= place < columns for place in places),
        list(levels) == [name for name in LEVELS if name in levels],
        sizes == sorted(sizes) and sizes[0] >= LEAST_BUCKET,
    )
    if not all(sound):
        raise ValueError("a part that cannot be")
    return part
