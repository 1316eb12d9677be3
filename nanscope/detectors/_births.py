"""When a run was non-finite, and what came first inside a step. Shared by the NS1xx detectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from nanscope.detectors._rows import bad_mask, carry_mask, sites_of, step_of, value_at
from nanscope.detectors._skips import LONG, WHOLE, skip_mask
from nanscope.run import Bools, Run, remembered
from nanscope.values import Kind, Phase, Site

SEEN = (Kind.INPUT, Kind.OUTPUT)
LEARNT = (Kind.WEIGHT, Kind.UPDATE)
BACKWARD = (Kind.GRAD_OUTPUT, Kind.GRAD)
_Columns = list[tuple[Site | None, str]]


@dataclass(frozen=True, slots=True)
class Episode:
    """Rows start..stop in which something was non-finite.

    Attributes:
        start: row of the first non-finite value.
        stop: first row after it where everything measured was finite; `len(run)` when there is none.
        harmful: a loss, a gradient or a weight was non-finite too, not only inputs or outputs.
        stayed: harmful and not over at the end of the run.
        protected: a gradient scaler skipped all of its updates, and it is too short for a training that
            stands still: the weights after it are those from before it.
    """

    start: int
    stop: int
    harmful: bool
    stayed: bool
    protected: bool = False


@dataclass(frozen=True, slots=True)
class Birth:
    """The first non-finite value of an episode: row, step and phase, and where.

    Attributes:
        name: the site's name in words, the parameter, the buffer, or `loss`.
        nan, inf: elements that were NaN or infinite there; None where not counted.
        poisoned: parameters that were non-finite before the update of the episode's first step, with their
            counts (nan, inf).
    """

    row: int
    step: int
    phase: Phase
    name: str
    site: Site | None = None
    nan: int | None = None
    inf: int | None = None
    poisoned: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@remembered
def episodes(run: Run) -> tuple[Episode, ...]:
    """Every stretch of non-finite rows, oldest first.

    Gradients alone that overflowed where a scaler skipped the update for it are none: they went nowhere.
    """
    seen, loss, backward, weights = _columns(run)
    skipped = skip_mask(run)
    harm = bad_mask(run, loss) | (bad_mask(run, backward) & ~skipped)
    harm |= carry_mask(run, weights, harm)
    bad = harm | bad_mask(run, seen)
    # An unwatched backward (inference, a frozen model) leaves nothing but the outputs to judge by.
    harm = harm if loss or backward else bad
    edges = np.flatnonzero(np.diff(np.concatenate(([False], bad, [False])).astype(np.int8)))
    return tuple(_episode(run, int(a), int(b), harm, skipped) for a, b in edges.reshape(-1, 2))


def lasting(run: Run) -> Episode | None:
    """The episode that the run did not recover from."""
    return next((episode for episode in episodes(run) if episode.stayed), None)


def finite_rows(run: Run) -> int:
    """Rows before the lasting episode; all of them in a run without one."""
    episode = lasting(run)
    return episode.start if episode else len(run)


def _episode(run: Run, start: int, stop: int, harm: Bools, skipped: Bools) -> Episode:
    harmful = bool(harm[start:stop].any())
    protected = (
        stop - start < LONG
        and bool(skipped[start:stop].all())
        and not any(_bad(run, site, stop - 1) for site in sites_of(run, *LEARNT))
    )
    return Episode(start, stop, harmful, harmful and stop == len(run) and not protected, protected)


def _columns(run: Run) -> tuple[_Columns, _Columns, _Columns, _Columns]:
    """Columns of inputs and outputs, of the loss, of gradients, of weights."""
    # A NaN that joins meant infinities still shows in the loss and the gradients.
    meant = meant_infinities(run)
    seen: _Columns = [(s, "l2") for s in sites_of(run, *SEEN) if s not in meant]
    loss: _Columns = [(None, "loss")] if run.has(None, "loss") else []
    backward: _Columns = [(s, "l2") for s in harmful_gradients(run)]
    return seen, loss, backward, [(s, "l2") for s in sites_of(run, *LEARNT)]


def harmful_gradients(run: Run) -> tuple[Site, ...]:
    """Gradients of parameters; one of an output alone may be healed on its way, as by a ReLU that was off."""
    return tuple(sites_of(run, Kind.GRAD)) or tuple(sites_of(run, Kind.GRAD_OUTPUT))


@remembered
def meant_infinities(run: Run) -> frozenset[Site]:
    """Sites that hold infinities (and no NaN) from the first row on, while loss and gradients are finite.

    Attention masks and masked action logits are written like this on purpose.
    """
    if not len(run) or _harm_at(run, 0):
        return frozenset()
    return frozenset(
        s for s in sites_of(run, *SEEN) if _bad(run, s, 0) and value_at(run, s, "nan_count", 0) == 0
    )


def _harm_at(run: Run, row: int) -> bool:
    loss = value_at(run, None, "loss", row)
    if loss is not None and not np.isfinite(loss):
        return True
    skipped = value_at(run, None, "skipped", row)
    is_skipped = skipped is not None and skipped >= WHOLE
    return not is_skipped and any(_bad(run, s, row) for s in harmful_gradients(run))


def birth_of(run: Run, episode: Episode) -> Birth:
    """What came first in the episode: state before the step, data, forward, loss, backward, update."""
    row = episode.start
    return (
        _poisoned_parameter(run, row)
        or _first(run, row, Phase.DATA, sites_of(run, Kind.INPUT))
        or _forward(run, row)
        or _loss(run, row)
        or _first(run, row, Phase.BACKWARD, _backward_order(run))
        or _first(run, row, Phase.UPDATE, sites_of(run, *LEARNT))
        or Birth(row, step_of(run, row), Phase.FORWARD, "model")
    )


def _poisoned_parameter(run: Run, row: int) -> Birth | None:
    """Parameters that were bad before the step: from the start, or by the update before."""
    poisoned = _state(run, row, "parameters")
    if not poisoned:
        return None
    order = {site.name: site for site in reversed(sites_of(run, *LEARNT))}
    name = min(poisoned, key=lambda key: order[key].order if key in order else len(order))
    phase, at = (Phase.INIT, row) if row == 0 else (Phase.UPDATE, row - 1)
    if row and name in order and _was_finite(run, order[name], at):
        at = row  # an optimizer that calls the model within its step, such as LBFGS
    return Birth(at, step_of(run, at), phase, name, order.get(name), *poisoned[name], poisoned)


def _was_finite(run: Run, site: Site, row: int) -> bool:
    norm = value_at(run, site, "l2", row)
    return norm is not None and bool(np.isfinite(norm))


def _forward(run: Run, row: int) -> Birth | None:
    born = _first(run, row, Phase.FORWARD, sites_of(run, Kind.OUTPUT))
    if born is None or row > 0:
        return born
    buffers = _state(run, row, "buffers")
    own = [name for name in buffers if _inside(name.rpartition(".")[0], born)]
    if not own:
        return born
    return Birth(row, born.step, Phase.INIT, own[0], born.site, *buffers[own[0]])


def _inside(module: str, born: Birth) -> bool:
    owner = born.site.name if born.site else ""
    return not owner or f"{module}.".startswith(f"{owner}.")


def _loss(run: Run, row: int) -> Birth | None:
    loss = value_at(run, None, "loss", row)
    if loss is None or np.isfinite(loss):
        return None
    return Birth(row, step_of(run, row), Phase.LOSS, "loss", None, int(np.isnan(loss)), int(np.isinf(loss)))


def _first(run: Run, row: int, phase: Phase, sites: tuple[Site, ...]) -> Birth | None:
    """The first of the sites that was non-finite at the row; meant infinities count only when NaN joins."""
    meant = meant_infinities(run)
    for site in sites:
        nan, inf = (value_at(run, site, stat, row) for stat in ("nan_count", "inf_count"))
        if _bad(run, site, row) and not (site in meant and nan == 0):
            return Birth(row, step_of(run, row), phase, str(site), site, _count(nan), _count(inf))
    return None


def _bad(run: Run, site: Site, row: int) -> bool:
    norm = value_at(run, site, "l2", row)
    return norm is not None and not np.isfinite(norm)


def _count(value: float | None) -> int | None:
    return None if value is None or not np.isfinite(value) else int(value)


def _backward_order(run: Run) -> tuple[Site, ...]:
    """Reverse of the forward; a module's output gradient exists before the gradients of its parameters."""
    sites = sites_of(run, Kind.GRAD_OUTPUT, Kind.GRAD)
    return tuple(sorted(sites, key=lambda site: (-site.order, site.kind is Kind.GRAD)))


def _state(run: Run, row: int, what: str) -> dict[str, tuple[int, int]]:
    """Non-finite elements (nan, inf) by name before the update of this row's step, where noted."""
    step = step_of(run, row)
    events = [event for event in run.events_of("state") if event["step"] == step]
    return {str(k): (int(v[0]), int(v[1])) for event in events for k, v in event.get(what, {}).items()}
