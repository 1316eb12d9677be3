"""The stats that the screen shows of every layer, each under a short name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nanscope.replay.cases import Case
from nanscope.values import Kind, Site


@dataclass(frozen=True, slots=True)
class Stat:
    """One row of a table: what is measured, under which name.

    Attributes:
        word: what a condition calls it.
        limit: a value that is worth a mark, None if there is none.
        unit: whether it is a share (from 0 to 1), else a norm, whose decades count.
    """

    name: str
    word: str
    kind: Kind
    stat: str
    limit: float | None = None
    is_share: bool = False


STATS: Mapping[str, Stat] = {
    each.name: each
    for each in (
        Stat("output norm", "out", Kind.OUTPUT, "l2"),
        Stat("grad norm", "grad", Kind.GRAD, "l2"),
        Stat("weight norm", "weight", Kind.WEIGHT, "l2"),
        Stat("update ratio", "update", Kind.UPDATE, "ratio", 1e-2),
        Stat("output max", "max", Kind.OUTPUT, "abs_max"),
        Stat("output grad norm", "gradout", Kind.GRAD_OUTPUT, "l2"),
        Stat("input norm", "in", Kind.INPUT, "l2"),
        Stat("dead fraction", "dead", Kind.OUTPUT, "dead_fraction", 0.9, is_share=True),
    )
}
DEFAULT = "output norm"


def sites_of(case: Case, stat: str) -> tuple[Site, ...]:
    """Where the case has a stat."""
    return case.sites(STATS[stat].kind, STATS[stat].stat)


def recorded(case: Case) -> list[str]:
    """Names of the stats that the case has anywhere."""
    return [name for name in STATS if sites_of(case, name)]


def at_module(case: Case, stat: str, module: str) -> Site | None:
    """The site of a stat that belongs to a module: of several parameters the first."""
    return next((site for site in sites_of(case, stat) if site.module == module), None)
