"""Conditions: run until something is so, forward or backward."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanscope.errors import UsageError
from nanscope.replay.cases import Case
from nanscope.replay.stats import STATS, sites_of
from nanscope.run import Floats, Overview, is_nonfinite

FORMS = "`grad fc2 > 1e3`, `loss > 10`, `dead relu3 > 0.9`, `nan any` or `nan fc2`"
BUCKET = 4096
_COMPARE: Mapping[str, Callable[[Any, Any], Any]] = {
    ">": operator.gt, "<": operator.lt, ">=": operator.ge, "<=": operator.le,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Condition:
    """What is to be so.

    Attributes:
        series: columns of the run, any of which may fulfil it.
        compare: one of `>`, `<`, `>=`, `<=`; empty: to be non-finite.
    """

    text: str
    series: tuple[int, ...]
    compare: str
    limit: float = 0.0

    def holds(self, values: Floats) -> NDArray[np.bool_]:
        """Where values fulfil it; a NaN fulfils no comparison."""
        if not self.compare:
            return is_nonfinite(values)
        with np.errstate(invalid="ignore"):
            return np.asarray(_COMPARE[self.compare](values.astype(np.float64), self.limit), np.bool_)

    def may_hold(self, seen: Overview) -> NDArray[np.bool_]:
        """Summaries in which some row may fulfil it."""
        bad = seen.nonfinite > 0
        if not self.compare:
            return bad
        edge = seen.high if self.compare in (">", ">=") else seen.low
        with np.errstate(invalid="ignore"):
            return bad | np.asarray(_COMPARE[self.compare](edge.astype(np.float64), self.limit), np.bool_)


def parse(text: str, case: Case) -> Condition:
    """A condition for one case.

    Raises:
        UsageError: it is none, or the case has no such series.
    """
    words = text.split()
    if len(words) == 2 and words[0].lower() in ("nan", "inf"):
        return Condition(text, _matching(case, words[1]), "")
    if len(words) >= 3 and words[-2] in _COMPARE and (limit := _limit(words[-1])) is not None:
        name = words[0]
        if len(words) == 3:
            return Condition(text, _scalar(case, name), words[-2], limit)
        if len(words) == 4:
            return Condition(text, _of_stat(case, name, words[1]), words[-2], limit)
    raise UsageError(f"{text!r} is no condition", f"write {FORMS}")


def search(
    case: Case, condition: Condition, row: int, *, forward: bool, last: int | None = None
) -> int | None:
    """The nearest row behind, or before, a row at which the condition holds; by the summaries first.

    Args:
        last: the last row that is looked at on the way forward; None looks to the end.
    """
    start, stop = (row + 1, case.rows if last is None else last + 1) if forward else (0, row)
    nearest = None
    for index in condition.series:
        found = _search(case, condition, index, start, stop, forward=forward)
        if found is not None:  # of the other series, only what is nearer counts
            nearest = found
            start, stop = (start, found) if forward else (found + 1, stop)
    return nearest


def _search(
    case: Case, condition: Condition, index: int, start: int, stop: int, *, forward: bool
) -> int | None:
    seen = case.reader.overview(index, BUCKET)
    starts = np.maximum(seen.starts, start)
    stops = np.minimum(np.append(seen.starts[1:], case.rows), stop)
    candidates = np.flatnonzero(condition.may_hold(seen) & (starts < stops))
    for at in candidates if forward else candidates[::-1]:
        first = int(starts[at])
        hits = np.flatnonzero(condition.holds(case.reader.column(index, first, int(stops[at]))))
        if hits.size:
            return first + int(hits[0] if forward else hits[-1])
    return None


def _limit(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _scalar(case: Case, name: str) -> tuple[int, ...]:
    if not case.run.has(None, name):
        known = ", ".join(case.run.scalars[:6])
        raise UsageError(f"{name} was not recorded", f"recorded are {known}")
    return (case.run.index(None, name),)


def _of_stat(case: Case, word: str, layer: str) -> tuple[int, ...]:
    stat = next((each for each in STATS.values() if each.word == word.lower()), None)
    if stat is None:
        raise UsageError(f"{word!r} is no stat", f"use {', '.join(s.word for s in STATS.values())}")
    found = [s for s in sites_of(case, stat.name) if _fits(s.name, s.module, layer)]
    if not found:
        raise UsageError(f"{stat.name} of {layer!r} was not recorded", "use `any` for all layers")
    return tuple(case.run.index(site, stat.stat) for site in found)


def _matching(case: Case, layer: str) -> tuple[int, ...]:
    run = case.run
    found = [run.index(s, "l2") for s in run.sites if run.has(s, "l2") and _fits(s.name, s.module, layer)]
    if layer in ("any", "loss") and run.has(None, "loss"):
        found.append(run.index(None, "loss"))
    if not found:
        raise UsageError(f"no layer is called {layer!r}", "use `any` for all layers")
    return tuple(found)


def _fits(name: str, module: str, layer: str) -> bool:
    return layer in ("any", name, module, module.rpartition(".")[2])
