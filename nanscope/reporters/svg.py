"""Charts of a run as SVG: a lane and a heat map, for a page that needs nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from html import escape
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from nanscope.raster.palette import decades
from nanscope.raster.scale import Scale, scale_of
from nanscope.replay.columns import Columns
from nanscope.replay.heat import Heat

WIDTH = 960
LEFT = 190  # room for names and numbers
ROW = 18
LANE = 200
RAIL = 12
TICKS = 5


def lane(columns: Columns, first: str, last: str) -> str:
    """A series: the band from the lowest to the highest value, the mean, and where it was not finite."""
    scale = scale_of([columns.low], [columns.high], linear=False)
    x = _edges(len(columns.mean))
    parts = [_tick(scale, i / (TICKS - 1)) for i in range(TICKS)]
    parts += [_band(columns, scale, x), _line(columns, scale, x)]
    parts += [_bad(x[i], x[i + 1] - x[i], LANE + 4, RAIL) for i in np.flatnonzero(columns.bad)]
    parts.append(f'<text x="{LEFT - 8}" y="{LANE + 14}" class="label">non-finite</text>')
    return _picture(parts + _axis(first, last, LANE + 36), LANE + 44)


def heat(names: Sequence[str], found: Heat, first: str, last: str) -> str:
    """A row per place: decades above the usual as colours, non-finite values as the brightest."""
    parts, x = [], _edges(found.values.shape[1])
    colours = decades(found.values)
    for row, name in enumerate(names):
        y = row * ROW
        parts.append(f'<text x="{LEFT - 8}" y="{y + 13}" class="label">{escape(_short(name))}</text>')
        parts += [
            f'<rect x="{x[a]:.1f}" y="{y}" width="{x[b] - x[a] + 0.3:.1f}" height="{ROW - 1}" '
            f'fill="#{colour:06x}"/>'
            for a, b, colour in _stretches(colours[row])
            if colour >= 0
        ]
        parts += [
            _bad(x[a], x[b] - x[a], y, ROW - 1)
            for a, b, bad in _stretches(found.bad[row].astype(np.int32))
            if bad
        ]
    return _picture(parts + _axis(first, last, len(names) * ROW + 16), len(names) * ROW + 24)


def _edges(count: int) -> NDArray[np.float64]:
    return np.linspace(LEFT, WIDTH - 4, count + 1)


def _stretches(values: NDArray[np.int32]) -> list[tuple[int, int, int]]:
    """Neighbours that are alike, made one: begin, end, value."""
    at = np.flatnonzero(np.diff(values)) + 1
    edges = [0, *at.tolist(), len(values)]
    return [(a, b, int(values[a])) for a, b in itertools.pairwise(edges) if b > a]


def _y(share: float) -> float:
    return LANE - 6 - share * (LANE - 12)


def _tick(scale: Scale, share: float) -> str:
    y = _y(share)
    line = f'<line x1="{LEFT}" x2="{WIDTH - 4}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
    return f'{line}<text x="{LEFT - 8}" y="{y + 4:.1f}" class="label">{escape(scale.label(share))}</text>'


def _band(columns: Columns, scale: Scale, x: NDArray[np.float64]) -> str:
    low, high = scale.share(columns.low), scale.share(columns.high)
    return "".join(
        f'<rect x="{x[i]:.1f}" y="{_y(high[i]):.1f}" width="{x[i + 1] - x[i] + 0.3:.1f}" '
        f'height="{max(1.0, _y(low[i]) - _y(high[i])):.1f}" class="band"/>'
        for i in np.flatnonzero(np.isfinite(low))
    )


def _line(columns: Columns, scale: Scale, x: NDArray[np.float64]) -> str:
    """The mean; a column without one ends the line."""
    share, words, joined = scale.share(columns.mean), [], False
    for i in range(len(share)):
        if np.isnan(share[i]):
            joined = False
            continue
        words.append(f"{'L' if joined else 'M'}{(x[i] + x[i + 1]) / 2:.1f} {_y(share[i]):.1f}h.1")
        joined = True
    return f'<path d="{" ".join(words)}" class="line"/>'


def _bad(x: float, width: float, y: float, height: float) -> str:
    return f'<rect x="{x:.1f}" y="{y}" width="{max(1.5, width):.1f}" height="{height}" class="bad"/>'


def _axis(first: str, last: str, y: float) -> list[str]:
    return [
        f'<text x="{LEFT}" y="{y}" class="first">{escape(first)}</text>',
        f'<text x="{WIDTH - 4}" y="{y}" class="label">{escape(last)}</text>',
    ]


def _short(name: str) -> str:
    return name if len(name) <= 26 else f"{name[:14]}..{name[-10:]}"


def _picture(parts: Sequence[str], height: float) -> str:
    box = quoteattr(f"0 0 {WIDTH} {height}")
    return f'<svg viewBox={box} width="100%" role="img" xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
