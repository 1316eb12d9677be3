"""The heat map: which layer moved first."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nanscope.raster.cells import Cells, fit
from nanscope.raster.heat import columns_per_cell, heat
from nanscope.raster.lane import LABELS
from nanscope.raster.palette import DIM, FOCUS_BACK, STRONG, TEXT
from nanscope.replay.cases import Case
from nanscope.replay.heat import heat_of
from nanscope.replay.stats import STATS, recorded, sites_of
from nanscope.tui.scene import Scene
from nanscope.values import Site

NAMES = 22
REFERENCE = {
    "own": "decades above own first 10 %",
    "raw": "decades (log10)",
    "baseline": "decades above the baseline's first 10 %",
}


def heatmap(scene: Scene, height: int, width: int) -> Cells:
    """A title and a row per layer, the one in focus in sight; other stats below where there is room."""
    cells, row, names = Cells.blank(height, width), 0, recorded(scene.case)
    first = names.index(scene.place.stat) if scene.place.stat in names else 0
    for i, stat in enumerate([scene.place.stat, *names[first + 1 :], *names[:first]]):
        there = replace(scene, place=replace(scene.place, stat=stat))
        room = height - row if not i else min(height - row, len(there.sites()) + 1)
        if room < min(3, height):
            break
        row += _one(there, cells, row, room)
    return cells


def _one(scene: Scene, cells: Cells, top: int, height: int) -> int:
    """One stat from a row on; gives how many rows it took."""
    sites, told, width = scene.sites(), STATS[scene.place.stat], cells.width
    aside = "shares" if told.is_share else REFERENCE[scene.place.reference]
    column = cells.write(top, 1, told.name, STRONG, bold=True)
    many = f"   {len(sites)} layers" if len(sites) > height - 1 else ""
    only = f"   /{scene.place.only}" if scene.place.only else ""
    cells.write(top, column + 2, f"{aside}   {scene.glyphs.bad} = NaN/Inf{many}{only}", DIM)
    if not sites:
        cells.write(top + 1, 1, _why_empty(scene), DIM)
        return 2
    label = names_width(scene, width)
    shown = visible(scene, sites, height - 1)
    look = scene.look(width - label - 1)
    edges = scene.edges((width - label - 1) * columns_per_cell(look))
    usual = scene.desk.usual(scene.place.case, scene.place.baseline, told.name, scene.place.reference)
    known = dict(zip(sites_of(scene.case, told.name), usual, strict=True))
    found = heat_of(scene.case, shown, told.name, edges, np.array([known[site] for site in shown]))
    cells.put(top + 1, label, heat(found.values, found.bad, look, of_shares=told.is_share))
    for row, site in enumerate(shown, top + 1):
        _name(cells, scene, row, site, label)
    return len(shown) + 1


def names_width(scene: Scene, width: int) -> int:
    """Cells that the names of layers take, with what stands around them."""
    longest = max((len(short_name(scene.case, site.name)) for site in scene.case.run.sites), default=8)
    return max(LABELS, min(max(12, width // 3), NAMES, 3 + longest))


def short_name(case: Case, name: str) -> str:
    """A name without what all names begin with."""
    return ".".join(name.split(".")[case.common :]) or "model"


def visible(scene: Scene, sites: tuple[Site, ...], height: int) -> tuple[Site, ...]:
    """As many layers as there is room for, the one in focus among them."""
    at = next((i for i, site in enumerate(sites) if site.module == scene.place.module), 0)
    first = max(0, min(len(sites) - height, at - height // 2))
    return sites[first : first + height]


def _name(cells: Cells, scene: Scene, row: int, site: Site, label: int) -> None:
    here = site.module == scene.place.module
    if here:
        cells.back[row, :label] = FOCUS_BACK
        cells.write(row, 0, scene.glyphs.here, STRONG, FOCUS_BACK)
    text = fit(short_name(scene.case, site.name), label - 2)
    cells.write(row, 1, text, STRONG if here else TEXT, FOCUS_BACK if here else None, bold=here)


def _why_empty(scene: Scene) -> str:
    if scene.place.only and sites_of(scene.case, scene.place.stat):
        return f"no layer matches {scene.place.only!r}: esc clears the filter"
    others = ", ".join(recorded(scene.case)) or "none"
    return f"{scene.place.stat} was not recorded in this run (recorded: {others}); v shows the next"
