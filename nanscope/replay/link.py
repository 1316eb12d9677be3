"""The place as a command line: what is copied here opens the same view elsewhere."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace

from nanscope.errors import UsageError
from nanscope.replay.cases import Case
from nanscope.replay.place import Place

SCREENS = ("Help", "Overview", "Compare", "Layers", "Predict", "Why", "Raw")


def command(place: Place, cases: Sequence[Case]) -> str:
    """The command that opens this place."""
    case = cases[place.case]
    words = ["nanscope", "replay", *(str(each.path) for each in cases)]
    words += ["--case", str(place.case + 1)] if len(cases) > 1 else []
    words += [
        "--at",
        str(case.step(place.row)),
        "--window",
        f"{case.step(place.start)}:{case.step(place.stop - 1)}",
    ]
    words += ["--layer", place.module] if place.module is not None else []
    words += ["--screen", str(max(1, place.screen))]
    return shlex.join([*words, *(["--alone"] if len(cases) == 1 else [])])


@dataclass(frozen=True, slots=True)
class Link:
    """What options of the command line name: a step, a layer, first and last step of the window, a screen."""

    at: int | None = None
    layer: str | None = None
    window: str | None = None
    screen: int | None = None


def opened(place: Place, case: Case, link: Link) -> Place:
    """The place that a link names.

    Raises:
        UsageError: there is no such layer, or the window is none.
    """
    if link.window:
        first, last = _window(link.window)
        place = place.window(case.row_of(first), case.row_of(last) + 1).within()
    if link.at is not None:
        place = place.land(case.row_of(link.at))
    if link.layer is not None:
        place = replace(place, module=_module(case, link.layer))
    return replace(place, screen=link.screen or place.screen)


def _window(text: str) -> tuple[int, int]:
    first, _, last = text.partition(":")
    try:
        return int(first), int(last)
    except ValueError:
        raise UsageError(f"--window {text!r} is no window", "write FIRST:LAST, two steps") from None


def _module(case: Case, layer: str) -> str:
    modules = dict.fromkeys(site.module for site in case.run.sites)
    if layer in modules:
        return layer
    short = [module for module in modules if module.rpartition(".")[2] == layer]
    if not short:
        raise UsageError(f"no layer is called {layer!r}", f"there are {', '.join(list(modules)[:8])}")
    return short[0]
