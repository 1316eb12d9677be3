"""One layer: every stat of it as a lane."""

from __future__ import annotations

import numpy as np

from nanscope.raster.cells import Cells, fit, fit_end
from nanscope.raster.heat import rail
from nanscope.raster.lane import LABELS, Trace, labels, lane
from nanscope.raster.palette import BAD_BACK, BAD_FORE, DIM, STRONG, WARN
from nanscope.replay.readout import value_at, worded
from nanscope.replay.stats import STATS, Stat, at_module
from nanscope.tui.scene import Scene, colour_of
from nanscope.values import Site

LOWEST = 3  # rows of a lane with its title
LARGEST = {"float16": 65504.0, "bfloat16": 3.3895e38, "float32": 3.4028e38, "float64": 1.7977e308}
"""Finite numbers of each dtype, see IEEE 754; bfloat16 has the exponent of float32 and 8 bits."""


def layer(scene: Scene, height: int, width: int) -> Cells:
    """Stacked lanes of the layer in focus; what was not recorded is named."""
    cells = Cells.blank(height, width)
    module = scene.place.module or ""
    found = [(stat, site) for stat in STATS.values() if (site := at_module(scene.case, stat.name, module))]
    missing = [stat.name for stat in STATS.values() if at_module(scene.case, stat.name, module) is None]
    cells.write(0, 1, fit(f"layer {scene.glyphs.here} {module or 'model'}", width - 2), STRONG, bold=True)
    room = height - 1 - bool(missing)
    each, more = divmod(room, max(1, len(found)))
    each, more = (each, more) if each >= LOWEST else (LOWEST, 0)
    row = 1
    for number, (stat, site) in enumerate(found):
        rows = each + (number < more)
        if row + rows > 1 + room:
            break
        cells.put(row, 0, _lane(scene, stat, site, rows, width))
        row += rows
    if missing:
        text = f"not recorded for this layer: {', '.join(missing)}"
        cells.write(height - 1, 1, fit_end(text, width - 1), DIM)
    return cells


def _lane(scene: Scene, stat: Stat, site: Site, height: int, width: int) -> Cells:
    cells, room = Cells.blank(height, width), width - LABELS - 1
    look = scene.look(room)
    series = scene.case.reader.columns(site, stat.stat, scene.edges(room * look.dots))
    drawn, scale = lane([Trace(series, colour_of(scene.place.case), focus=True)], height - 1, room, look)
    value = float(value_at(scene.case, site, stat.stat, scene.place.row))
    text = worded(value)
    bad = text in ("nan", "inf", "-inf")
    column = cells.write(0, 1, stat.name, STRONG) + 1
    column = (
        cells.write(0, column, text, BAD_FORE if bad else STRONG, BAD_BACK if bad else None, bold=True) + 2
    )
    limit, what = (stat.limit, "") if stat.limit is not None else largest(stat, site)
    if limit is not None:
        over = value > limit
        mark = f"{scene.glyphs.up} over " if over else ""
        column = cells.write(0, column, f"{mark}limit {limit:.3g}{what}", WARN if over else DIM) + 2
    cells.put(1, 0, labels(scale, height - 1))
    cells.put(1, LABELS, drawn)
    broken = np.asarray((series.bad > 0).reshape(room, look.dots).any(1))
    if broken.any():
        cells.put(0, max(LABELS, column), _cut(rail(broken, look), max(LABELS, column) - LABELS))
    return cells


def largest(stat: Stat, site: Site) -> tuple[float | None, str]:
    """The largest number that the elements of a place can be, and of which dtype it is."""
    limit = LARGEST.get(site.dtype) if stat.stat == "abs_max" else None
    return limit, f" ({site.dtype})" if limit is not None else ""


def _cut(cells: Cells, first: int) -> Cells:
    return Cells(cells.glyphs[:, first:], cells.fore[:, first:], cells.back[:, first:], cells.bold[:, first:])
