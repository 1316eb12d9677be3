"""The `origin` event of a run file, read with care: it may come from anybody, and anything may be missing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nanscope.numbers import number

LIMITS = {"float16": 65504.0, "bfloat16": 3.39e38, "float32": 3.403e38, "float64": 1.798e308}
"""The largest finite number of each dtype."""


@dataclass(frozen=True, slots=True)
class Made:
    """An operand, or the operation that made one; `data` are JSON types."""

    data: Mapping[str, Any]

    def number(self, key: str) -> float:
        """A number of it, NaN if it has none of this name."""
        return as_number(self.data.get(key))

    def text(self, key: str) -> str:
        """A word of it, empty if it has none of this name."""
        value = self.data.get(key)
        return value if isinstance(value, str) else ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape, empty if that is not known."""
        return tuple(size for size in as_list(self.data.get("shape")) if isinstance(size, int))

    @property
    def maker(self) -> Operation | None:
        """The operation that made an operand, if it was watched."""
        made = self.data.get("made_by")
        return Operation(made) if isinstance(made, Mapping) else None

    @property
    def words(self) -> str:
        """What it is called in a sentence."""
        return self.text("name") or self.text("role") or "an operand"


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation with its operands; `data` are JSON types."""

    data: Mapping[str, Any]

    @property
    def op(self) -> str:
        """Its canonical name."""
        value = self.data.get("op")
        return value if isinstance(value, str) else ""

    @property
    def function(self) -> str:
        """The name of the function whose gradient this computes, or computed with; else its own."""
        value = self.data.get("of")
        return value if isinstance(value, str) else self.op

    @property
    def phase(self) -> str:
        """Of the step."""
        value = self.data.get("phase")
        return value if isinstance(value, str) else ""

    @property
    def operands(self) -> tuple[Made, ...]:
        """What it read."""
        return tuple(Made(each) for each in as_list(self.data.get("operands")) if isinstance(each, Mapping))

    @property
    def scalars(self) -> Mapping[str, Any]:
        """Its other arguments."""
        value = self.data.get("scalars")
        return value if isinstance(value, Mapping) else {}

    def scalar(self, *names: str) -> float:
        """The first of these arguments that is a number, NaN if none is."""
        found = (as_number(self.scalars.get(name)) for name in names)
        return next((value for value in found if not math.isnan(value)), math.nan)

    def operand(self, *roles: str) -> Made | None:
        """The first operand in one of these roles."""
        return next((each for role in roles for each in self.operands if each.text("role") == role), None)

    def before(self, depth: int = 4) -> Iterator[Operation]:
        """The operations that its operands are made of, nearest first."""
        makers = [made for operand in self.operands if (made := operand.maker) is not None]
        yield from makers
        if depth > 1:
            for made in makers:
                yield from made.before(depth - 1)


@dataclass(frozen=True, slots=True)
class Facts(Operation):
    """The operation where the first harmful non-finite value was born."""

    @property
    def forward(self) -> Operation | None:
        """In a backward pass the operation whose gradient it is."""
        value = self.data.get("forward")
        return Operation(value) if isinstance(value, Mapping) else None

    @property
    def result(self) -> Made:
        """What it gave."""
        value = self.data.get("result")
        return Made(value if isinstance(value, Mapping) else {})

    @property
    def is_nan(self) -> bool:
        """Whether the first broken element is NaN, not infinite."""
        first = next(iter(as_list(self.data.get("elements"))), None)
        if isinstance(first, Mapping) and first.get("value") is not None:
            return math.isnan(as_number(first["value"]))
        return self.result.number("nan") > 0

    @property
    def element(self) -> tuple[tuple[int, ...], tuple[float | None, ...]] | None:
        """Index of the first broken element, and what its operands held there; None where not known."""
        first = next(iter(as_list(self.data.get("elements"))), None)
        if not isinstance(first, Mapping):
            return None
        index = tuple(i for i in as_list(first.get("index")) if isinstance(i, int))
        held = (None if v is None else as_number(v) for v in as_list(first.get("operands")))
        return index, tuple(held)

    def at(self, *roles: str) -> float:
        """What the operand in one of these roles held at the first broken element, NaN where not known."""
        held = self.element[1] if self.element else ()
        for role in roles:
            for operand, value in zip(self.operands, held, strict=False):
                if operand.text("role") == role and value is not None:
                    return value
        return math.nan

    @property
    def row(self) -> Made:
        """What a reduction or a softmax was taken over at the first broken element."""
        reduced = self.data.get("reduced")
        row = reduced.get("row") if isinstance(reduced, Mapping) else None
        return Made(row if isinstance(row, Mapping) else {})

    @property
    def matrix(self) -> Made:
        """The square matrix that the first broken element was made of."""
        value = self.data.get("matrix")
        return Made(value if isinstance(value, Mapping) else {})

    @property
    def where(self) -> str:
        """Index of the first broken element, in words for the end of a sentence."""
        return f", element {list(self.element[0])}" if self.element and self.element[0] else ""

    @property
    def limit(self) -> float:
        """The largest number of the result's dtype."""
        return LIMITS.get(self.result.text("dtype"), LIMITS["float32"])


def as_number(value: Any) -> float:
    """A number from JSON types: words stand for what is not finite; NaN for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def as_list(value: Any) -> Sequence[Any]:
    """A list, empty for anything else."""
    return value if isinstance(value, list | tuple) else ()


def of_many(part: float, total: float, word: str) -> str:
    """`3 exact zeros of 60`."""
    many = "" if math.isnan(total) else f" of {whole(total)}"
    plural = "" if part == 1 else "s"
    return f"{whole(part)} {word}{plural}{many}"


def whole(value: float) -> str:
    """A count in words, whatever stands in its place."""
    return f"{int(value):,}" if math.isfinite(value) else number(value)


def between(operand: Made) -> str:
    """The range of an operand in words."""
    return f"{number(operand.number('min'))} to {number(operand.number('max'))}"
