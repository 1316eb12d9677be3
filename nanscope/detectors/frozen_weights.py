"""Does a parameter stay exactly the same although it should learn?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from nanscope.detectors._births import finite_rows
from nanscope.detectors._rows import measured, sites_of, steady_since, step_of
from nanscope.run import Run
from nanscope.values import Finding, Kind, Severity, Site

MEASUREMENTS, ROWS = 4, 200
SURE = 90  # rows that are enough where updates were measured, too, and all of them are exactly zero
VISIBLE = 1e-3
"""Sum of lr * gradient norm, relative to the weight norm, from which a float32 norm is sure to move."""


NEVER = "no gradient ever reaches it: frozen on purpose, or cut off (detach, no_grad, an unused branch)"
CUT = (
    "no gradient ever reaches it, though the optimizer holds it and all that comes after it learns: cut off "
    "(detach, no_grad, .data)"
)
RATE = "the learning rate is zero"
UNUSED = "there is a gradient; the optimizer does not use it, or the update is lost in rounding"
UNHELD = "there is a gradient, but no optimizer holds it"
SQUARE = 1.8e19  # the root of the largest float32
ROUNDING = 1.2e-7  # a relative change below this can be lost in float32
UNDERFLOW = 1e-30  # so small a norm moves by less than float32 can hold


def frozen_weights(run: Run) -> Iterable[Finding]:
    """NS305: norms of parameters are bitwise constant; one finding per reason, naming all of them."""
    stop = finite_rows(run)
    since = _rate_is_zero_since(run, stop)
    weights = sites_of(run, Kind.WEIGHT)
    still = [still for site in weights if (still := _still(run, site, stop, since)) is not None]
    if _are_cut_off(run, [each.site for each in still if each.why == NEVER]):
        still = [replace(each, why=CUT) if each.why == NEVER else each for each in still]
    for why in dict.fromkeys(each.why for each in still):
        yield _finding(run, why, [each for each in still if each.why == why])


@dataclass(frozen=True, slots=True)
class _Still:
    site: Site
    start: int
    end: int
    norm: float
    why: str


def _finding(run: Run, why: str, still: list[_Still]) -> Finding:
    first = min(still, key=lambda each: each.start)
    names = tuple(str(each.site) for each in still)
    who = names[0] if len(names) == 1 else f"{len(names)} parameters, {first.site} first,"
    verb = "does" if len(names) == 1 else "do"
    start, end = step_of(run, first.start), step_of(run, first.end)
    return Finding(
        "NS305",
        "frozen-weights",
        Severity.NOTE if why == NEVER else Severity.WARNING,
        start,
        f"{who} {verb} not change from step {start} to {end}: {why}",
        first.site,
        None,
        {"norm": first.norm, "last_step": end, "why": why, "sites": names, "squared": "square" in why},
    )


def _are_cut_off(run: Run, never: list[Site]) -> bool:
    """Whether parameters without a gradient come before all that learn, and were meant to learn, too.

    A part that is not used, such as a head of another task, lies elsewhere.
    """
    meant = _held(run) or set()
    if not never or not meant.issuperset(site.name for site in never):
        return False
    names = {site.name for site in never}
    learnt = [s.order for s in sites_of(run, Kind.WEIGHT) if s.name in meant - names]
    orders = [s.order for s in never]
    return bool(learnt) and min(orders) > -1 and max(orders) < min(learnt)


def _held(run: Run) -> set[str] | None:
    """Parameters that an optimizer trained when the training began; None where that was not noted."""
    noted = [(module["name"], module["learns"]) for module in run.header.model if "learns" in module]
    return {f"{name}.{key}".lstrip(".") for name, keys in noted for key in keys} if noted else None


def _rate_is_zero_since(run: Run, stop: int) -> int | None:
    """First row of the end of a run at a learning rate of zero, if that is long."""
    if not run.has(None, "lr") or stop < ROWS or run.scalar("lr", stop - ROWS, stop).any():
        return None
    rates = run.scalar("lr", 0, stop)
    moved = np.flatnonzero(rates != 0)
    first = int(moved[-1]) + 1 if moved.size else 0
    return first if stop - first >= ROWS else None


def _still(run: Run, site: Site, stop: int, since: int | None) -> _Still | None:
    """The constant end of a parameter's norms, if it is long and there is a reason to mind it.

    Args:
        since: the row from which on the rate is zero.
    """
    rows, norms = measured(run, site, "l2", steady_since(run, site, "l2", stop), stop)
    moved = np.flatnonzero(norms != norms[-1]) if norms.size else np.zeros(0, np.int64)
    first = int(moved[-1]) + 1 if moved.size else 0
    if since is not None and norms.size - first > 1 and rows[first] <= since + ROWS:
        return _Still(site, since, stop - 1, float(norms[-1]), RATE)
    if norms.size - first < MEASUREMENTS or rows[-1] - rows[first] < SURE:
        return None
    if rows[-1] - rows[first] < ROWS and not _is_unmoved(run, site, int(rows[first]) + 1, stop):
        return None
    start, end, norm = int(rows[first]), int(rows[-1]), float(norms[-1])
    why = _why(run, site, start + 1, end + 1, norm)
    return _Still(site, start, end, norm, why) if why else None


def _is_unmoved(run: Run, site: Site, start: int, stop: int) -> bool:
    """Whether updates of a parameter were measured, and were exactly zero."""
    update = next((s for s in sites_of(run, Kind.UPDATE) if s.name == site.name), None)
    moves = measured(run, update, "l2", start, stop)[1] if update else np.zeros(0, np.float32)
    return moves.size >= MEASUREMENTS - 1 and not moves.any()


def _why(run: Run, site: Site, start: int, end: int, norm: float) -> str | None:
    """The reason in words; None where no change was to be expected (no gradient, or too small a one)."""
    grad = next((s for s in sites_of(run, Kind.GRAD) if s.name == site.name), None)
    grads = measured(run, grad, "l2", start, end)[1] if grad else np.zeros(0, np.float32)
    if not grads.size:
        return NEVER if grad is not None and _others_learn(run) else None
    if not grads.any():
        return "the gradient is exactly zero"
    lr = measured(run, None, "lr", start, end)[1] if run.has(None, "lr") else np.zeros(0, np.float32)
    if lr.size and not lr.any():
        return RATE
    expected = (
        float(np.mean(lr, dtype=np.float64)) * float(np.sum(grads, dtype=np.float64)) if lr.size else 0.0
    )
    single = float(lr.max(initial=0)) * float(
        grads.max()
    )  # the largest single update that plain SGD would make
    unseen = single <= ROUNDING * norm or norm < UNDERFLOW
    if expected <= VISIBLE * norm or (unseen and site.dtype in ("float32", "float64")):
        return None  # a converged model stands still, too
    held = _held(run)
    unused = UNUSED if held is None or site.name in held else UNHELD
    return _squared(run, grad, start) or unused


def _squared(run: Run, grad: Site | None, start: int) -> str:
    """Whether the last gradient that was used is too large to be squared, as Adam and others do."""
    rows, norms = measured(run, grad, "l2", max(0, start - 2), start + 1) if grad else ((), ())
    large = [row for row, norm in zip(rows, norms, strict=True) if norm > SQUARE]
    if not large:
        return ""
    return (
        f"the gradient of step {step_of(run, large[-1])} is so large that its square is infinite; so is a "
        "running mean of squares, such as Adam's, ever after, and every update is zero"
    )


def _others_learn(run: Run) -> bool:
    """Whether gradients are recorded at all."""
    return any(measured(run, site, "l2", 0, min(len(run), ROWS))[1].size for site in sites_of(run, Kind.GRAD))
