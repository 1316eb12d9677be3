"""Runs by hand, for the tests of everything that looks at a run; no torch, no file.

    run = make_run(outputs={"fc1": [1, 2, np.nan]}, loss=[2.3, 2.2, np.nan])

names only what the test is about. `healthy_run`, `diverged_run` and `collapsed_run` tell the three typical
stories with every column that the recorder writes for a small classifier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanscope.run import MISSING, Column, Floats, Header, Overview, Run, is_missing, is_nonfinite
from nanscope.values import Epoch, Kind, Site

LAYERS = ("layer1_layer", "layer1_activation", "layer2_layer", "layer2_activation", "final_layer")
PARAMETERS = ("layer1_layer.weight", "layer2_layer.weight", "final_layer.weight")
CLASSES = 10


class ArraySource:
    """A `Source` over arrays in memory, one per column."""

    def __init__(
        self, columns: Sequence[Floats], steps: NDArray[np.int64], times: NDArray[np.float64]
    ) -> None:
        self._columns = tuple(columns)
        self._steps = steps
        self._times = times
        self._overviews: dict[tuple[int, int], Overview] = {}

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self._steps)

    def whole(self) -> tuple[tuple[int, int], ...]:
        """All rows."""
        return ((0, self.rows),)

    def column(self, index: int, start: int, stop: int) -> Floats:
        """One column, shape (stop - start,)."""
        return self._columns[index][start:stop]

    def block(self, start: int, stop: int) -> Floats:
        """All columns, shape (stop - start, columns)."""
        return np.stack([column[start:stop] for column in self._columns], axis=1)

    def steps(self, start: int, stop: int) -> NDArray[np.int64]:
        """Step numbers."""
        return self._steps[start:stop]

    def times(self, start: int, stop: int) -> NDArray[np.float64]:
        """Seconds since the run began."""
        return self._times[start:stop]

    def overview(self, index: int, bucket: int) -> Overview:
        """One column in buckets of exactly the given number of rows; the last may be shorter.

        Made once and kept, as a run file has its pyramid ready.
        """
        if (index, bucket) not in self._overviews:
            self._overviews[index, bucket] = self._summary(index, bucket)
        return self._overviews[index, bucket]

    def _summary(self, index: int, bucket: int) -> Overview:
        values = self._columns[index]
        edges = np.arange(0, self.rows, bucket)
        if not edges.size:
            empty = np.zeros(0, np.float32)
            return Overview(bucket, edges, empty, empty, empty, np.zeros(0, np.uint32))
        finite = np.isfinite(values)
        seen = np.add.reduceat(finite, edges, dtype=np.int64)
        total = np.add.reduceat(np.where(finite, values, 0), edges, dtype=np.float64)
        clean = values if finite.all() else np.where(finite, values, np.float32(np.nan))
        return Overview(
            bucket,
            edges,
            np.fmin.reduceat(clean, edges),
            np.fmax.reduceat(clean, edges),
            np.divide(total, seen, out=np.full(edges.size, np.nan), where=seen > 0).astype(np.float32),
            np.add.reduceat(is_nonfinite(values), edges, dtype=np.uint32),
        )


def column(values: ArrayLike) -> Floats:
    """As a float32 column, whatever it was given as; MISSING stays MISSING."""
    given = np.asarray(values)
    if given.dtype != object:
        return given.astype(np.float32) if given.dtype != np.float32 else given
    gaps = np.array([item is None for item in given])
    result = np.array([np.nan if item is None else item for item in given], np.float32)
    result[gaps] = MISSING
    return result


def every(cadence: int, values: ArrayLike) -> Floats:
    """The values at each `cadence`-th row from row 0 on, MISSING between them."""
    given = column(values)
    result = np.full(given.size, MISSING, np.float32)
    result[::cadence] = given[::cadence]
    return result


def make_run(
    *,
    inputs: Mapping[str, ArrayLike] | ArrayLike | None = None,
    outputs: Mapping[str, ArrayLike] | None = None,
    grad_outputs: Mapping[str, ArrayLike] | None = None,
    weights: Mapping[str, ArrayLike] | None = None,
    grads: Mapping[str, ArrayLike] | None = None,
    stats: Mapping[tuple[Kind, str, str], ArrayLike] | None = None,
    predicted: ArrayLike | None = None,
    scalars: Mapping[str, ArrayLike] | None = None,
    dtype: str = "float32",
    steps: ArrayLike | None = None,
    config: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
    events: Sequence[Mapping[str, Any]] = (),
    epochs: Sequence[Epoch] = (),
    state: str = "finished",
    name: str = "run.h5",
    lost: Sequence[str] = (),
    **more: ArrayLike,
) -> Run:
    """A run from arrays, one value per step. None in a list means: not measured at that step.

    Args:
        inputs: norms of the root's input, or by name.
        outputs: norms by module, in the order of execution.
        grad_outputs: norms of the gradients of module outputs, by module.
        weights: norms by parameter, such as `fc2.weight`.
        grads: norms of their gradients, by parameter.
        stats: further columns by (kind, name, stat), such as `(Kind.OUTPUT, "fc1", "abs_max")`; a count given
            here replaces the one that is derived from the norm (1 where the norm is NaN or inf, else 0).
        predicted: predictions per class, shape (rows, classes).
        scalars: by name, for names that are no Python words.
        more: the other scalars (`loss=[...]`, `lr=0.1`); a single number stands for every step.
    """
    by_kind = {
        Kind.INPUT: inputs if inputs is None or isinstance(inputs, Mapping) else {"": inputs},
        Kind.OUTPUT: outputs,
        Kind.GRAD_OUTPUT: grad_outputs,
        Kind.WEIGHT: weights,
        Kind.GRAD: grads,
    }
    order = {module: position for position, module in enumerate(outputs or {})}
    table: dict[Column, ArrayLike] = {}
    for kind, series in by_kind.items():
        for site_name, norms in (series or {}).items():
            table |= _of_site(_site(site_name, kind, order, dtype), column(norms))
    for (kind, site_name, stat), values in (stats or {}).items():
        table[Column(_site(site_name, kind, order, dtype), stat)] = values
    named = dict(scalars or {}) | more
    if predicted is not None:
        named |= {f"predicted_{c}": counts for c, counts in enumerate(np.asarray(predicted).T)}
    table |= {Column(None, scalar): values for scalar, values in named.items()}
    lengths = {np.shape(values)[0] for values in table.values() if np.ndim(values)}
    rows = max(lengths, default=min(1, len(table)))
    arrays = [np.broadcast_to(column(values), (rows,)) for values in table.values()]
    numbers = np.arange(rows) if steps is None else np.asarray(steps)
    header = Header(tuple(table), dict(config or {}), dict(environment or {}), _model(outputs or {}))
    source = ArraySource(arrays, numbers.astype(np.int64), np.arange(rows) * 1e-3)
    return Run(name, header, source, state, tuple(events), tuple(epochs), tuple(lost))


def _site(name: str, kind: Kind, order: Mapping[str, int], dtype: str) -> Site:
    module = Site(name, kind).module
    position = -1 if kind is Kind.INPUT else order.get(module, -1)
    return Site(name, kind, "Linear" if "layer" in module or "fc" in module else "", position, dtype)


def _of_site(site: Site, norms: Floats) -> dict[Column, ArrayLike]:
    gaps = is_missing(norms)
    counts = {"nan_count": np.isnan(norms), "inf_count": np.isinf(norms)}
    columns: dict[Column, ArrayLike] = {Column(site, "l2"): norms}
    for stat, flags in counts.items():
        columns[Column(site, stat)] = np.where(gaps, MISSING, flags.astype(np.float32))
    return columns


def _model(outputs: Mapping[str, ArrayLike]) -> tuple[Mapping[str, Any], ...]:
    return tuple({"name": name, "type": "Module", "parameters": 0} for name in outputs)


def _noise(rows: int, seed: int, width: float) -> NDArray[np.float64]:
    """Log-normal factors around 1: what batch size 1 does to a norm."""
    return np.exp(np.random.default_rng(seed).normal(0, width, rows))


def _classifier(rows: int, size: NDArray[np.float64], **changes: Any) -> Run:
    """All columns of a recorded three-layer classifier; `size` scales every norm, shape (rows,)."""
    seeds, noise = iter(range(100)), 0.2
    parts: dict[str, Any] = {
        "inputs": 8.0 * _noise(rows, next(seeds), noise / 4),
        "outputs": {layer: 4 * size * _noise(rows, next(seeds), noise) for layer in LAYERS},
        "grad_outputs": {layer: 0.1 * size * _noise(rows, next(seeds), 4 * noise) for layer in LAYERS},
        "weights": {name: every(100, 18 * size + 1e-3 * np.arange(rows)) for name in PARAMETERS},
        "grads": {name: 0.5 * size * _noise(rows, next(seeds), 4 * noise) for name in PARAMETERS},
        "lr": 0.1,
        "samples": 1.0,
        "predicted_nan": np.zeros(rows),
        "predicted": np.eye(CLASSES)[np.random.default_rng(7).integers(0, CLASSES, rows)],
        "logits_abs_max": 3 * size * _noise(rows, 8, noise),
        "logits_spread": np.full(rows, MISSING),
        "logits_margin": size * _noise(rows, 9, noise),
        "config": {"dataset": "digits", "batch_size": 1, "lr": 0.1, "optimizer": "sgd", "epochs": 1}
        | {"train_size": 1437, "classes": CLASSES, "label_counts": [144] * 7 + [143] * 3},
        "environment": {"torch": "2.6.0", "device": "cpu", "dtype": "float32", "seed": 0},
    }
    return make_run(**(parts | changes))


def healthy_run(rows: int = 1500, **changes: Any) -> Run:
    """Batch size 1 that learns: noisy norms within a band, a heavy-tailed loss that falls."""
    fall = 2.3 * np.exp(-np.arange(rows) / (rows / 3)) + 0.05
    return _classifier(rows, np.ones(rows), **({"loss": fall * _noise(rows, 50, 0.5)} | changes))


def diverged_run(rows: int = 1500, birth: int = 1440, growth: int = 40, **changes: Any) -> Run:
    """The real case: healthy, norms that grow 8-fold per step, infinite logits at step `birth`, then all NaN.

    The loss is NaN from `birth` on, the weights after its update, every logit one step later.
    """
    size = 8.0 ** np.clip(np.arange(rows) - (birth - growth), 0, 100)
    size = np.minimum(size, 1e35)
    loss = 2.3 * size * _noise(rows, 51, 0.5)
    weights = {name: every(100, 18 * size) for name in PARAMETERS}
    for norms in weights.values():
        norms[birth - 6 : birth] = 18 * size[birth - 6 : birth]
    events = ({"kind": "state", "step": birth} | _CLEAN,)
    run = _classifier(rows, size, loss=loss, weights=weights, events=events)
    header, source = run.header, run.source
    arrays = [np.array(source.column(i, 0, rows)) for i in range(len(header.columns))]
    for values, (site, stat) in zip(arrays, ((c.site, c.stat) for c in header.columns), strict=True):
        _poison(values, site, stat, birth)
    poisoned = make_source(arrays, run)
    told = Run(run.name, header, poisoned, run.state, run.events, (_nan_epoch(rows),))
    return _changed(told, changes)


_CLEAN: Mapping[str, Any] = {"parameters": {}, "buffers": {}}
_COUNTS = {"nan_count": np.float32(CLASSES), "inf_count": np.float32(0)}


def make_source(arrays: Sequence[Floats], run: Run) -> ArraySource:
    """The arrays with the steps and times of a run."""
    return ArraySource(arrays, run.steps, run.source.times(0, len(run)))


def _poison(values: Floats, site: Site | None, stat: str, birth: int) -> None:
    """Write the aftermath of infinite logits at row `birth` into one column."""
    if site is None:
        _poison_scalar(values, stat, birth)
        return
    forward = site.kind is Kind.OUTPUT
    last = forward and site.name == LAYERS[-1]
    start = birth if last or not forward else birth + 1
    if site.kind is Kind.INPUT:
        return
    values[start:] = np.nan if stat == "l2" else _COUNTS[stat]
    if last:
        values[birth] = {"l2": np.inf, "nan_count": 0, "inf_count": CLASSES}[stat]


def _poison_scalar(values: Floats, name: str, birth: int) -> None:
    if name in ("loss", "logits_margin"):
        values[birth:] = np.nan
    elif name == "logits_abs_max":
        values[birth], values[birth + 1 :] = np.inf, np.nan
    elif name == "predicted_nan":
        values[birth + 1 :] = 1
    elif name.startswith("predicted_"):
        values[birth + 1 :] = name == "predicted_0"


def _nan_epoch(rows: int) -> Epoch:
    """An evaluation whose predictions are all class 0; 36 samples of each class."""
    confusion = tuple((36, *([0] * (CLASSES - 1))) for _ in range(CLASSES))
    return Epoch(1, rows, rows, 1.0, float("nan"), 0.1, 2 * 0.1 / 1.1 / CLASSES, confusion)


def _changed(run: Run, changes: Mapping[str, Any]) -> Run:
    """The run with other fields of `Run` (name, state, events, epochs, lost)."""
    fields = {name: getattr(run, name) for name in Run.__dataclass_fields__}
    return Run(**(fields | changes))


def collapsed_run(rows: int = 3000, since: int = 1000, **changes: Any) -> Run:
    """Batch size 1 that dies for real: a hidden layer is zero, the loss is that of guessing, all is finite.

    The predictions still wander over the classes, because each update moves the last bias.
    """
    dead = np.arange(rows) >= since
    noise = 4 * _noise(rows, 60, 0.2)
    outputs = {layer: noise * _noise(rows, i, 0.1) for i, layer in enumerate(LAYERS)}
    outputs["layer2_activation"] = np.where(dead, 0, outputs["layer2_activation"])
    loss = np.where(dead, 2.3, 1.8) * _noise(rows, 61, 0.3)
    fraction = every(100, np.where(dead, 1.0, 0.3))
    parts = {
        "loss": loss,
        "outputs": outputs,
        "stats": {(Kind.OUTPUT, "layer2_activation", "dead_fraction"): fraction},
    }
    return _classifier(rows, np.ones(rows), **(parts | changes))
