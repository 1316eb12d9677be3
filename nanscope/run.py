"""`Run`: one recorded training, as every analysis and every screen sees it.

A run is a table: one row per step, one float32 column per measured quantity. A column belongs to a site and
a stat (`fc2.output`, `l2`) or is a scalar (`loss`). Rows come from a `Source`: the run file's reader, or
arrays in memory (tests). Nothing here imports torch or h5py.

A NaN in a column is data: the tensor's norm was NaN. A quantity that was not measured at a step holds
`MISSING`, a NaN with a payload of its own (R does the same for its NA), so that the two are never confused.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, update_wrapper
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from nanscope.errors import NotRecordedError
from nanscope.values import Epoch, Site

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
T = TypeVar("T")

MISSING_BITS = 0x7FC06E73  # a quiet NaN that spells "ns"
MISSING = np.array(MISSING_BITS, np.uint32).view(np.float32)[()]

STATS: Mapping[str, str] = {
    "l2": "Euclidean norm of all elements",
    "nan_count": "elements that are NaN",
    "inf_count": "elements that are +inf or -inf",
    "abs_max": "largest absolute value; measured at a cadence and near trouble",
    "ratio": "l2 of the update over l2 of the weight after it; measured at a cadence",
    "dead_fraction": "units whose output was zero for every sample of the last window; measured at a cadence",
}
"""Every stat that a site may have, with its definition."""

SCALARS: Mapping[str, str] = {
    "loss": "sum over the tensors given to backward() in the step",
    "lr": "learning rate of the first parameter group",
    "loss_scale": "scale of the gradient scaler in the step; loss and gradients are recorded divided by it",
    "skipped": "share of the step's optimizer updates that the gradient scaler skipped",
    "samples": "rows of the batches in the step",
    "logits_abs_max": "largest absolute logit",
    "logits_spread": "largest difference between two samples of the batch in the logit of one class",
    "logits_margin": "mean over the batch of the best logit minus the second best",
    "predicted_nan": "rows of the batch whose logits hold a NaN, so that their argmax means nothing",
}
"""The scalars that the recorder writes; `predicted_<c>` counts the rows predicted as class c."""


def is_missing(values: Floats) -> Bools:
    """Where nothing was measured (not the same as NaN, which is a measurement)."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return np.equal(bits, MISSING_BITS)


def is_nonfinite(values: Floats) -> Bools:
    """Where a NaN or an infinity was measured."""
    return ~np.isfinite(values) & ~is_missing(values)


@dataclass(frozen=True, slots=True)
class Column:
    """One float32 per step: a stat of a site, or a scalar (then `site` is None and `stat` its name).

    A scalar with an empty name is spare: the writer gives it a name when the user logs a scalar of his own.
    """

    site: Site | None
    stat: str


@dataclass(frozen=True)
class Header:
    """What is known of a run before its first row: fixed for the life of the run file.

    Attributes:
        columns: what each position of a row means.
        config: the job's settings (data set, batch size, lr ...) as JSON types.
        environment: versions, device, dtype, seed, argv, git commit, as JSON types.
        model: one entry per module: name, type, parameters.
        created: seconds since the epoch (UTC).
    """

    columns: tuple[Column, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    model: tuple[Mapping[str, Any], ...] = ()
    created: float = 0.0


@dataclass(frozen=True, slots=True)
class Overview:
    """A column summarised in buckets, oldest first; arrays of shape (buckets,).

    `low`, `high` and `mean` are over the finite values and NaN where there are none; MISSING counts nowhere.

    Attributes:
        bucket: rows in a bucket; fewer in the last one, and where two parts of a run meet.
        starts: the first row of each bucket.
    """

    bucket: int
    starts: NDArray[np.int64]
    low: Floats
    high: Floats
    mean: Floats
    nonfinite: NDArray[np.uint32]


class Source(Protocol):
    """Where the rows come from. `start` and `stop` are row numbers, within 0..rows."""

    @property
    def rows(self) -> int:
        """Number of rows."""

    def whole(self) -> tuple[tuple[int, int], ...]:
        """Ranges (first row, row after the last) whose values are kept, rising; the rest are summaries."""

    def column(self, index: int, start: int, stop: int) -> Floats:
        """One column, shape (stop - start,); MISSING also where the file keeps no more than a summary."""

    def block(self, start: int, stop: int) -> Floats:
        """All columns, shape (stop - start, columns)."""

    def steps(self, start: int, stop: int) -> NDArray[np.int64]:
        """Step numbers: increasing; gaps where rows were lost."""

    def times(self, start: int, stop: int) -> NDArray[np.float64]:
        """Seconds since the run began."""

    def overview(self, index: int, bucket: int) -> Overview:
        """One column in buckets of (about) the given number of rows."""


@dataclass(frozen=True)
class Run:
    """One recorded training.

    Attributes:
        name: the file's path as given, or any word for a run in memory; for display.
        state: `live`, `finished`, `interrupted`, `failed` (the training raised), `killed` (its writer is
            gone and did not close the file), `continued` (in a part that is not here).
        events: what the recorder noted beside the rows, oldest first; each a dict with `kind` and `step`.
        epochs: evaluations, oldest first.
        lost: what could not be recorded or read, in words; empty in a sound run.
    """

    name: str
    header: Header
    source: Source
    state: str = "finished"
    events: tuple[Mapping[str, Any], ...] = ()
    epochs: tuple[Epoch, ...] = ()
    lost: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.source.rows

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """Every site, in the order of the columns."""
        return tuple(dict.fromkeys(c.site for c in self.header.columns if c.site is not None))

    @cached_property
    def scalars(self) -> tuple[str, ...]:
        """Names of the scalars, in the order of the columns."""
        return tuple(c.stat for c in self.header.columns if c.site is None and c.stat)

    @cached_property
    def steps(self) -> NDArray[np.int64]:
        """Step number of every row."""
        rows = len(self)
        if not rows:
            return self.source.steps(0, 0)
        first, last = (int(self.source.steps(row, row + 1)[0]) for row in (0, rows - 1))
        # They only rise: where none can be missing there is nothing to read.
        if last - first == rows - 1:
            return np.arange(first, last + 1, dtype=np.int64)
        return self.source.steps(0, rows)

    @cached_property
    def memory(self) -> dict[Hashable, Any]:
        """What was found out about it, for those who ask the same again (`remembered`)."""
        return {}

    @cached_property
    def _index(self) -> dict[tuple[Site | None, str], int]:
        return {(c.site, c.stat): i for i, c in enumerate(self.header.columns)}

    def has(self, site: Site | None, stat: str) -> bool:
        """Whether the run has this column (`site=None` for a scalar)."""
        return (site, stat) in self._index

    def index(self, site: Site | None, stat: str) -> int:
        """Position of a column.

        Raises:
            NotRecordedError: the run has no such column.
        """
        try:
            return self._index[site, stat]
        except KeyError:
            what = f"{stat} of {site}" if site is not None else stat
            raise NotRecordedError(f"{what} was not recorded in {self.name}") from None

    def series(self, site: Site, stat: str = "l2", start: int = 0, stop: int | None = None) -> Floats:
        """One stat of one site over the rows start..stop, shape (rows,)."""
        return self.source.column(self.index(site, stat), start, len(self) if stop is None else stop)

    def scalar(self, name: str, start: int = 0, stop: int | None = None) -> Floats:
        """One scalar over the rows start..stop, shape (rows,)."""
        return self.source.column(self.index(None, name), start, len(self) if stop is None else stop)

    def events_of(self, kind: str) -> tuple[Mapping[str, Any], ...]:
        """The events of one kind, oldest first."""
        return tuple(event for event in self.events if event["kind"] == kind)


def remembered(question: Callable[[Run], T]) -> Callable[[Run], T]:
    """A question about a run that is worked out once, and again only when the run has more rows."""

    def answer(run: Run) -> T:
        key = question, len(run)
        if key not in run.memory:
            run.memory[key] = question(run)
        found: T = run.memory[key]
        return found

    return update_wrapper(answer, question)
