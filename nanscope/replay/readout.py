"""The readout: what was measured at the playhead, in words and numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from nanscope.numbers import count
from nanscope.replay.axis import Axis, Unit
from nanscope.replay.cases import Case
from nanscope.replay.place import Place
from nanscope.replay.stats import STATS, at_module
from nanscope.run import Floats, is_missing, is_nonfinite
from nanscope.values import Kind, Site

REACH = 1_000  # rows back in which what is measured now and then is looked for
TREND = 200  # rows over which a trend is told
LARGEST = {"float16": 65504.0, "bfloat16": 3.4e38, "float32": 3.4e38}


@dataclass(frozen=True, slots=True)
class Line:
    """One line: `mark` is 1 where a limit is passed, 2 where the value is not finite; `rises` is a trend."""

    label: str
    value: str
    aside: str = ""
    mark: int = 0
    rises: int = 0


def worded(value: float) -> str:
    """A number in few letters; NaN, infinities and what was not measured in words."""
    if math.isnan(value):
        return "-" if bool(is_missing(np.array([value], np.float32))[0]) else "nan"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.2e}"


def readout(case: Case, place: Place, axis: Axis) -> list[Line]:
    """The focus: where, and every stat of the layer there."""
    lines = _where(case, place, axis)
    lines += [line for name in STATS if (line := _stat(case, place, name)) is not None]
    lines += _counts(case, place)
    lines += [
        _scalar(case, place.row, name)
        for name in ("loss", "lr", "logits_abs_max")
        if case.run.has(None, name)
    ]
    return lines


def value_at(case: Case, site: Site | None, stat: str, row: int) -> np.float32:
    """What was measured last at or before a row, at most `REACH` rows before."""
    start = max(0, row + 1 - REACH)
    values = case.reader.rows(case.run.index(site, stat), start, row + 1)
    known = np.flatnonzero(~is_missing(values))
    return np.float32(values[known[-1]] if known.size else values[-1] if values.size else np.nan)


def bad_in(case: Case, row: int) -> tuple[int, int]:
    """NaN and infinite values in all tensors of a row."""
    if not 0 <= row < case.rows:
        return 0, 0
    values, found = case.reader.row(row), []
    for stat in ("nan_count", "inf_count"):
        index = [i for i, column in enumerate(case.run.header.columns) if column.stat == stat]
        found.append(int(np.nansum(np.where(np.isfinite(values[index]), values[index], 0))))
    return found[0], found[1]


def _where(case: Case, place: Place, axis: Axis) -> list[Line]:
    samples = Line("samples", count(round(axis.at(place.row, Unit.SAMPLES))))
    if not case.per_epoch:
        return [samples]
    return [Line("epoch", f"{axis.at(place.row, Unit.EPOCHS):.3f}"), samples]


def _stat(case: Case, place: Place, name: str) -> Line | None:
    site = at_module(case, name, place.module or "")
    if site is None:
        return None
    stat = STATS[name]
    value = float(value_at(case, site, stat.stat, place.row))
    aside, mark, rises = _trend(case, site, stat.stat, place.row), 0, 0
    if not math.isfinite(value):
        mark = 2 if bool(is_nonfinite(np.array([value], np.float32))[0]) else 0
    elif stat.limit is not None and value > stat.limit:
        aside, mark = f"limit {stat.limit:g}", 1
    elif site.kind is Kind.OUTPUT and value > LARGEST.get(site.dtype, math.inf) / 1e3:
        aside, mark = f"near {site.dtype} max", 1
    if aside.startswith(("+", "-")):
        rises = 1 if aside[0] == "+" else -1
    return Line(name, worded(value), aside, mark, rises)


def _trend(case: Case, site: Site, stat: str, row: int) -> str:
    values = case.reader.rows(case.run.index(site, stat), max(0, row + 1 - TREND), row + 1)
    good = np.flatnonzero(np.isfinite(values) & (values > 0))
    if good.size < 8:
        return ""
    slope = float(np.polyfit(good, np.log10(values[good].astype(np.float64)), 1)[0]) * 1_000
    return f"{slope:+.1f} dec/1k" if abs(slope) >= 0.1 else "steady"


def _counts(case: Case, place: Place) -> list[Line]:
    nans, infs = bad_in(case, place.row)
    ahead = bad_in(case, place.row + 1)
    lines = [Line("non-finite", f"nan {count(nans)}  inf {count(infs)}", "", 2 if nans or infs else 0)]
    if sum(ahead):
        lines.append(Line("at the next step", f"nan {count(ahead[0])}  inf {count(ahead[1])}", "", 1))
    return lines


def _scalar(case: Case, row: int, name: str) -> Line:
    value: Floats = case.reader.rows(case.run.index(None, name), row, row + 1)
    number = float(value[0]) if value.size else math.nan
    return Line(
        name.replace("_abs_", " ").replace("_", " "), worded(number), "", 0 if math.isfinite(number) else 2
    )
