"""Does a model with a finite loss give the same answer whatever it is shown?

During training at batch size 1 a collapsed model still "predicts" many classes, because every update moves
the last bias towards the latest label. What the predictions are is therefore weak evidence; that they cannot
depend on the input (a layer that is exactly zero, logits that do not move) is strong evidence.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanscope.detectors._births import lasting
from nanscope.detectors._rows import batch_rows, block_mean, measured, sites_of, step_of, value_at
from nanscope.detectors.nan_predictions import class_names
from nanscope.run import Run
from nanscope.values import Finding, Kind, Severity, Site

SAMPLES, ROWS = 1000, 50
"""A window holds at least this many of both: with 10 balanced classes, the chance that 1,000 healthy
predictions fall to 90 % into one class is below 1e-700 (binomial tail), so noise alone cannot fire."""
ZERO_SAMPLES, ZERO_ROWS, ZERO_SHARE = 300, 20, 0.5
"""A layer that is exactly zero for half of the batches of such a window, with a loss of guessing."""
STILL = 1e-3
"""Logits that differ by less between two samples give each class the same probability within 0.1 %."""
ROUNDING = 1e-6
CONCENTRATED = 1.5
BALANCED = 0.8
WHOLE = 0.95
STALLED = 0.99


@dataclass(frozen=True, slots=True)
class Windows:
    """A run cut into windows of equal length.

    Attributes:
        rows: rows per window.
        loss: mean loss, shape (windows,).
        predicted: share of each class among the predictions, shape (windows, classes).
    """

    rows: int
    loss: NDArray[np.float64]
    predicted: NDArray[np.float64]


def class_collapse(run: Run) -> Iterable[Finding]:
    """NS202 dead layer, NS203 constant logits, NS205 one class otherwise; the first that is proved."""
    if lasting(run) is not None or not run.has(None, "loss"):
        return
    rows = window_rows(run)
    last = run.scalar("loss", max(0, len(run) - rows))
    if len(run) < rows or not at_chance(run, float(last[np.isfinite(last)].mean())):
        return
    view = windows(run)
    for judge in (_dead_layer, _alike, _constant_logits, _one_class):
        if found := judge(run, view):
            yield found
            return


def window_rows(run: Run) -> int:
    """Rows of a window that is large enough to judge by."""
    return max(ROWS, math.ceil(SAMPLES / batch_rows(run)))


def windows(run: Run) -> Windows:
    """The whole run in such windows, aligned to its end."""
    block = window_rows(run)
    loss = block_mean(run, "loss", block, len(run))
    counts = np.array([block_mean(run, name, block, len(run)) for name in class_names(run)]).T
    total = counts.sum(1, keepdims=True) if counts.size else counts
    return Windows(block, loss, np.divide(counts, total, out=np.zeros_like(counts), where=total > 0))


PERFECT = 1e-6
ABOUT = (0.8, 1.25)  # of the entropy of the labels


def at_chance(run: Run, loss: float) -> bool:
    """Whether a loss is about that of guessing (cross-entropy), or not far below the untrained model's."""
    if loss <= PERFECT:
        return False  # nothing is left to be learnt: an answer that never changes may be the right one
    first, classes = value_at(run, None, "loss", 0), len(class_names(run))
    untrained = first is None or loss >= 0.5 * first
    if classes < 2:
        return untrained
    least, most = (share * _entropy(label_shares(run), classes) for share in ABOUT)
    # The first loss of a model whose input has not been scaled is far above that of guessing.
    return loss >= least and (untrained or loss <= most)


def label_shares(run: Run) -> tuple[float, ...]:
    """Share of each class among the training labels; empty where the run file does not say."""
    counts = run.header.config.get("label_counts") or ()
    total = sum(counts)
    return tuple(count / total for count in counts) if total else ()


def _entropy(shares: tuple[float, ...], classes: int) -> float:
    """Loss (nats) of the best constant answer: Shannon entropy of the labels."""
    return -sum(p * math.log(p) for p in shares if p) if shares else math.log(classes)


def effective_classes(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Perplexity of the predictions: 1 when all are one class, C when even; shape (windows,)."""
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return np.asarray(np.exp(-(shares * logs).sum(-1)), np.float64)


def _tail(flags: NDArray[np.bool_]) -> int | None:
    """Index of the first window of the unbroken run of flags at the end; None if the last one is not set."""
    if not flags.size or not flags[-1]:
        return None
    clear = np.flatnonzero(~flags)
    return int(clear[-1]) + 1 if clear.size else 0


@dataclass(frozen=True, slots=True)
class _Claim:
    rule: str
    slug: str
    row: int
    why: str
    site: Site | None = None


def _report(run: Run, view: Windows, claim: _Claim) -> Finding:
    """The claim with the numbers of the last window."""
    loss, step = float(view.loss[-1]), step_of(run, claim.row)
    evidence: dict[str, object] = {"window": view.rows, "loss": loss, "rows": len(run) - claim.row}
    if view.predicted.size:
        shares = view.predicted[-1]
        top = int(shares.argmax())
        evidence |= {"chance": _entropy(label_shares(run), shares.size), "top_class": top}
        evidence |= {"top_share": float(shares[top]), "classes": float(effective_classes(shares))}
    message = (
        f"since step {step} {claim.why}; the loss is finite ({loss:.3g} over the last {view.rows} steps)"
    )
    return Finding(claim.rule, claim.slug, Severity.ERROR, step, message, claim.site, None, evidence)


def _dead_layer(run: Run, view: Windows) -> Finding | None:
    """A hidden output that is exactly zero for most batches: all of them get the same answer."""
    rows = max(ZERO_ROWS, math.ceil(ZERO_SAMPLES / batch_rows(run)))
    shares = {site: _zero_shares(run, site, rows) for site in sites_of(run, Kind.OUTPUT)}
    site = max(shares, key=lambda each: float(shares[each][-1]), default=None)
    first = _tail(shares[site] >= ZERO_SHARE) if site is not None else None
    if site is None or first is None:
        return None
    zero = shares[site]
    why = (
        f"every unit of {site} is zero in {zero[-1]:.0%} of the steps (the last {rows}): what comes after it "
        "gives them all the same answer"
    )
    claim = _Claim("NS202", "dead-layer-collapse", len(run) - (zero.size - first) * rows, why, site)
    return _report(run, view, claim)


def _zero_shares(run: Run, site: Site, rows: int) -> NDArray[np.float64]:
    """Share of the steps in which the output was exactly zero, window by window up to the end."""
    count = len(run) // rows
    norms = run.series(site, "l2", len(run) - count * rows)
    if not (norms[-rows:] == 0).any():
        return np.zeros(count)
    return np.asarray((norms == 0).reshape(count, rows).mean(1), np.float64)


def _alike(run: Run, view: Windows) -> Finding | None:
    """Samples of one batch that get the same logits, as they did not before or to the last digit."""
    spread = block_mean(run, "logits_spread", view.rows, len(run))
    first = _tail(spread <= STILL)
    if first is None:
        return None
    size = block_mean(run, "logits_abs_max", view.rows, len(run))[-1]
    # Small since the beginning may be a model that has hardly begun to learn.
    if spread[-1] > ROUNDING * size and not (spread[:first] > 10 * STILL).any():
        return None
    window = len(run) - (spread.size - first) * view.rows
    rows, values = measured(run, None, "logits_spread", 0, len(run))
    apart = rows[values > max(STILL, ROUNDING * size)]
    row = int(apart[-1]) + 1 if apart.size and len(run) - apart[-1] > view.rows else window
    why = f"every sample gets the same logits (within a batch they differ by {spread[-1]:.1e}, of {size:.2g})"
    site = _blocked(run, len(run) - view.rows)
    if site is not None:
        why += f", and the gradient that reaches {site.name} is exactly zero: it learns no more"
    return _report(run, view, _Claim("NS203", "constant-logits", row, why, site))


def _blocked(run: Run, row: int) -> Site | None:
    """The last output that no gradient has reached since `row`, as none before it; what follows gets some."""
    sites = sites_of(run, Kind.GRAD_OUTPUT)
    zero = [not measured(run, site, "l2", row, len(run))[1].any() for site in sites]
    blocked = zero.index(False) if False in zero else 0
    return sites[blocked - 1] if blocked and not any(zero[blocked:]) else None


def _constant_logits(run: Run, view: Windows) -> Finding | None:
    """Logits that stay put while the inputs change: told by the margin, which samples differ in."""
    # In a large batch the mean margin hardly moves in a healthy run either.
    if batch_rows(run) > 64 or not run.has(None, "logits_margin") or not _inputs_vary(run, view.rows):
        return None
    start = len(run) - view.rows
    spread = _relative_moves(measured(run, None, "logits_margin", start, len(run))[1])
    if spread is None or spread > STILL or effective_classes(view.predicted[-1:])[0] > CONCENTRATED:
        return None
    why = (
        f"the logits do not follow the input (their margin moves by {spread:.1e} of itself from step to step)"
    )
    return _report(run, view, _Claim("NS203", "constant-logits", start, why))


def _inputs_vary(run: Run, rows: int) -> bool:
    moves = (
        _relative_moves(measured(run, s, "l2", len(run) - rows, len(run))[1])
        for s in sites_of(run, Kind.INPUT)
    )
    return any(move is not None and move > STILL for move in moves)


def _relative_moves(values: NDArray[np.float32]) -> float | None:
    """Median move between neighbours relative to the median size; None below 2 values."""
    if values.size < 2:
        return None
    size = float(np.median(np.abs(values)))
    move = float(np.median(np.abs(np.diff(values.astype(np.float64)))))
    return move / size if size else 0.0


def _one_class(run: Run, view: Windows) -> Finding | None:
    """One class for (nearly) everything, with labels that are mixed and a loss that does not fall."""
    stalled = view.loss.size >= 2 and view.loss[-1] > STALLED * view.loss[:-1].min()
    if not stalled or max(label_shares(run), default=0.0) >= BALANCED:
        return None
    return _in_evaluation(run, view) or _in_training(run, view)


def _in_evaluation(run: Run, view: Windows) -> Finding | None:
    """The last evaluation predicts one class although it shows several."""
    confusion = np.array(run.epochs[-1].confusion if run.epochs else (), np.float64)
    if confusion.ndim != 2 or not confusion.sum() or confusion.sum(1).max() >= BALANCED * confusion.sum():
        return None
    shares = confusion.sum(0) / confusion.sum()
    top = int(shares.argmax())
    if shares[top] < WHOLE:
        return None
    why = (
        "the model does not get better than guessing: the last evaluation predicts class "
        f"{top} for {shares[top]:.1%} of the samples"
    )
    return _report(run, view, _Claim("NS205", "class-collapse", len(run) - 2 * view.rows, why))


def _in_training(run: Run, view: Windows) -> Finding | None:
    """Predictions narrowed down to about one class in a model that had told more apart."""
    if not view.predicted.size:
        return None
    spread = effective_classes(view.predicted)
    first = _tail(spread <= CONCENTRATED)
    # Narrow from the first window on may be a model that has not learnt yet: no collapse is claimed.
    if not first or spread[:first].max() < 2 * CONCENTRATED:
        return None
    top = int(view.predicted[-1].argmax())
    why = (
        f"{view.predicted[-1, top]:.0%} of the predictions are class {top}, where the model had told "
        f"{spread[:first].max():.1f} classes apart"
    )
    row = len(run) - (spread.size - first) * view.rows
    return _report(run, view, _Claim("NS205", "class-collapse", row, why))
