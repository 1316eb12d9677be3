"""Raw: the numbers as they were recorded, none of them rounded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from nanscope.replay.cases import Case
from nanscope.run import Column, Floats, is_missing
from nanscope.values import Kind

AROUND = 10  # steps before and after the playhead that are copied
PREDICTED = "predicted_"
KINDS = {Kind.INPUT: 0, Kind.OUTPUT: 1, Kind.GRAD_OUTPUT: 2}
"""What passes through a layer stands before its parameters, each with its gradient and update."""
PLAIN_DIGITS = 6  # powers of ten up to which a number is written without one


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the table: a stat of a place; with `index` None the place itself, above its stats."""

    place: str
    stat: str
    index: int | None


@dataclass(frozen=True, slots=True)
class Value:
    """One number: as text, whether it is NaN or infinite, whether it differs from the step before."""

    text: str
    bad: bool
    changed: bool


def exact(value: np.float32) -> str:
    """A recorded number with all of its digits, NaN and infinities in words; `-` was not measured."""
    if np.isnan(value):
        return "-" if is_missing(np.array([value], np.float32))[0] else "NaN"
    if np.isinf(value):
        return "Inf" if value > 0 else "-Inf"
    if value and abs(np.log10(abs(value))) > PLAIN_DIGITS:
        return np.format_float_scientific(value, unique=True)
    return str(value)


def name_of(column: Column) -> str:
    """`fc2.output l2`, or a scalar's name."""
    return column.stat if column.site is None else f"{column.site} {column.stat}"


def columns_of(case: Case, module: str | None) -> list[tuple[int, Column]]:
    """Columns in the order of reading: the loss and its kind, the layer in focus, the others, the classes."""
    ranks = {name: rank for rank, name in enumerate(dict.fromkeys(site.module for site in case.run.sites))}

    def far(entry: tuple[int, Column]) -> tuple[int, int, int, str]:
        site = entry[1].site
        if site is None:
            return 3 if entry[1].stat.startswith(PREDICTED) else 0, 0, 0, ""
        mine = 1 if site.module == module else 2
        return mine, ranks[site.module], KINDS.get(site.kind, len(KINDS)), str(site)

    return sorted(((i, c) for i, c in enumerate(case.run.header.columns) if c.stat), key=far)


def entries(columns: Sequence[tuple[int, Column]]) -> list[Entry]:
    """The lines of the table: each place once, its stats below it."""
    found: list[Entry] = []
    for place, group in groupby(columns, lambda entry: str(entry[1].site or "")):
        found += [Entry(place, "", None)] * bool(place)
        found += [Entry(place, column.stat, index) for index, column in group]
    return found


def values(case: Case, index: int, start: int, stop: int) -> list[Value]:
    """One column of the run over some rows; the first is held against the row before it, too."""
    rows = case.reader.rows(index, max(0, start - 1), stop)
    before: Floats = rows[: len(rows) - 1] if start else np.concatenate((rows[:1], rows[:-1]))
    return [
        Value(text := exact(value), text in ("NaN", "Inf", "-Inf"), value.tobytes() != previous.tobytes())
        for value, previous in zip(rows[min(1, start) :], before, strict=True)
    ]


def as_tsv(case: Case, columns: Sequence[tuple[int, Column]], row: int, around: int = AROUND) -> str:
    """The numbers around a row as a table with tabs: a line per step, names in the first."""
    lines = ["\t".join(["step", *(name_of(column) for _, column in columns)])]
    for at in range(max(0, row - around), min(case.rows, row + around + 1)):
        numbers = case.reader.row(at)
        lines.append("\t".join([str(case.step(at)), *(exact(numbers[index]) for index, _ in columns)]))
    return "\n".join(lines)
