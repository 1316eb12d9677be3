"""The heat map of a whole run in digits, for those who have no full screen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nanscope.numbers import count
from nanscope.raster.heat import heat
from nanscope.raster.lane import Look
from nanscope.raster.palette import Graph
from nanscope.replay.cases import Case
from nanscope.replay.columns import Edges
from nanscope.replay.heat import Heat, heat_of, usual_of
from nanscope.replay.stats import DEFAULT, STATS, recorded, sites_of
from nanscope.run import Run
from nanscope.tui.panes.heatmap import short_name
from nanscope.values import Diagnosis
from nanscope.view import Overview

COLUMNS, LAYERS = 50, 20


def overview_of(run: Run, diagnosis: Diagnosis) -> Overview | None:
    """Decades above each layer's own begin over all steps; None where nothing of a layer was recorded.

    A column tells of its largest value, and of any that is not finite. Of many layers those that went bad
    first or got hottest are shown, in order of execution.
    """
    case = Case(Path(run.name), run, diagnosis)
    names = recorded(case)
    if not names or not case.rows:
        return None
    stat = DEFAULT if DEFAULT in names else names[0]
    every = -(-case.rows // COLUMNS)  # steps of a column, the last of which may have fewer
    columns = -(-case.rows // every)
    starts = np.arange(columns, dtype=np.int64) * every
    edges = Edges(starts, np.minimum(starts + every, case.rows))
    sites = sites_of(case, stat)
    found = heat_of(case, sites, stat, edges, usual_of(case, stat))
    digits = heat(found.values, found.bad, Look(Graph.ASCII), of_shares=STATS[stat].is_share).lines()
    shown = np.sort(_worst(found)[:LAYERS])
    rows = tuple(
        (short_name(case, sites[at].name), f"{digits[at]:<{columns}}".replace("X", "x")) for at in shown
    )
    many = f"; {LAYERS} of {len(sites)} layers" if len(sites) > LAYERS else ""
    column = f"a column is {f'{count(every)} steps' if every > 1 else 'a step'}"
    return Overview(
        stat, f"{'tenths' if STATS[stat].is_share else 'decades above usual'}; {column}{many}", rows
    )


def _worst(found: Heat) -> NDArray[np.intp]:
    """Numbers of the layers, those first that were not finite first, then those that got hottest."""
    never = found.bad.shape[1]
    first = np.where(found.bad.any(1), found.bad.argmax(1), never)
    hottest = np.where(found.bad, -np.inf, np.nan_to_num(found.values, nan=-np.inf)).max(1)
    return np.lexsort((-hottest, first))
