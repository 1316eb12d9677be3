"""What one trial left of a run, held against what had to be there."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from nanscope.run import Floats, Run, is_missing
from nanscope.store.reader import open_run
from tests.store.child import EVENTS, FIRST
from tests.store.files import bits, pattern


@dataclass(frozen=True)
class Outcome:
    """One trial.

    Attributes:
        exists: whether there was a file to open.
        plain, opened: whether plain h5py and the reader opened it.
        due: rows that had to be there; `found`: rows that were; `missing`: of those due, not found.
        late: seconds from the append of the first missing row to the end.
        wrong: rows with a bit that nobody appended.
        open_seconds: that the reader took.
        complaints: the promises that were broken, in words.
    """

    exists: bool = True
    plain: bool = True
    opened: bool = True
    due: int = 0
    found: int = 0
    missing: int = 0
    late: float = 0.0
    wrong: int = 0
    open_seconds: float = 0.0
    complaints: tuple[str, ...] = ()


@dataclass(frozen=True)
class Expected:
    """What has to be in a run.

    Attributes:
        due: numbers of the rows that have to be there.
        last: no row from this number on was ever appended.
        events: the first so many have to be there.
        states: one of these.
        gaps: whether rows may be missing between others.
        thinned: whether any row may be without its values.
        hollow: whether rows may be without their values; then they count as missing if they were due.
        amended: whether the newest row may be as it was before it was amended.
        lossless: whether the run may report no loss.
    """

    due: NDArray[np.int64]
    last: int
    events: int = 0
    states: tuple[str, ...] = ("killed",)
    gaps: bool = False
    thinned: bool = False
    hollow: bool = False
    amended: bool = False
    lossless: bool = True


def examine(path: Path, expected: Expected) -> Outcome:
    """Open a run file, every way, and compare every bit."""
    plain = [
        reason for file in sorted(path.parent.glob(f"{path.stem}*.h5")) for reason in plain_reasons(file)
    ]
    start = time.perf_counter()
    try:
        run = open_run(path)
    except Exception as error:  # noqa: BLE001 - whatever it is, the file did not open
        return Outcome(plain=not plain, opened=False, due=len(expected.due), complaints=(*plain, repr(error)))
    seconds = time.perf_counter() - start
    outcome = compare(run, expected)
    complaints = (*plain, *outcome.complaints)
    return replace(outcome, plain=not plain, open_seconds=seconds, complaints=complaints)


def plain_reasons(path: Path) -> list[str]:
    """Reasons why plain h5py does not read the file as it is."""
    try:
        with h5py.File(path, "r") as file:
            assert file.attrs["format"] == "nanscope-run"
            file.visititems(lambda _, item: dict(item.attrs) and None)
            newest = "live/head" if file.attrs["layout"] == "live" else "series/step"
            for name in ("config", "series/site", newest):
                assert file[name][()] is not None
    except Exception as error:  # noqa: BLE001 - whatever it is, h5py did not open it
        return [f"plain h5py: {error!r}"]
    return []


def compare(run: Run, expected: Expected) -> Outcome:
    """Compare every bit of an open run."""
    numbers, odd = np.divmod(run.steps, 3)
    table = run.source.block(0, len(run))
    hollow = is_missing(table).all(axis=1)
    wrong = (odd != 0) | (numbers >= expected.last) | (numbers < 0)
    wrong |= run.source.times(0, len(run)) != numbers / 8
    wrong |= ~_right_values(table, numbers, expected) & ~(hollow & (expected.thinned | expected.hollow))
    missing = np.setdiff1d(expected.due, numbers if expected.thinned else numbers[~hollow])
    complaints = list(_complaints(run, numbers, expected))
    if wrong.any():
        complaints.append(f"{np.count_nonzero(wrong)} wrong rows, the first is {numbers[wrong][0]}")
    elif not _overview_is_right(run, table):
        complaints.append("the overview is not that of the rows")
    return Outcome(
        due=len(expected.due),
        found=len(run),
        missing=len(missing),
        wrong=int(np.count_nonzero(wrong)),
        complaints=tuple(complaints),
    )


def _right_values(table: Floats, numbers: NDArray[np.int64], expected: Expected) -> NDArray[np.bool_]:
    pairs = zip(table, numbers, strict=True)
    right = np.array([np.array_equal(bits(row), bits(_row(n, row.size))) for row, n in pairs], bool)
    if expected.amended and len(right) and not right[-1]:
        right[-1] = np.array_equal(bits(table[-1]), bits(_row(numbers[-1] + FIRST, table.shape[1])))
    return right


def _row(number: int, columns: int) -> Floats:
    row: Floats = pattern(int(number), int(number) + 1, columns)[0]
    return row


def _complaints(run: Run, numbers: NDArray[np.int64], expected: Expected) -> Any:
    if (np.diff(numbers) <= 0).any():
        yield "rows out of order"
    if not expected.gaps and not np.array_equal(numbers, np.arange(len(numbers))):
        yield "a gap between rows"
    if run.state not in expected.states:
        yield f"the state is {run.state}"
    losses = [loss for loss in run.lost if not (expected.thinned and "size budget" in loss)]
    if any("record of its progress is unreadable" in loss for loss in losses):
        yield "no head"
    if expected.lossless and losses:
        yield f"a loss is reported: {losses}"
    sent = {f"event {row}": i for i, row in enumerate(range(0, expected.last + 1, EVENTS))}
    places = [sent.get(event["text"], -1) for event in run.events_of("note")]
    if -1 in places or places != sorted(set(places)):
        yield "events that nobody sent, or out of order"
    if not set(range(expected.events)) <= set(places):
        yield f"{len(places)} events of {expected.events}"


def _overview_is_right(run: Run, table: Floats) -> bool:
    """Lowest and highest finite value, and the count of what is not finite, of a few columns."""
    for index in (0, table.shape[1] // 2, table.shape[1] - 1):
        overview = run.source.overview(index, 64)
        starts = getattr(overview, "starts", np.arange(len(overview.low)) * overview.bucket)
        for k, start in enumerate(starts):
            cell = table[start : starts[k + 1] if k + 1 < len(starts) else None, index]
            if is_missing(cell).any():
                continue
            finite = cell[np.isfinite(cell)]
            low, high = (finite.min(), finite.max()) if finite.size else (np.nan, np.nan)
            same = np.array_equal((low, high), (overview.low[k], overview.high[k]), equal_nan=True)
            if not same or overview.nonfinite[k] != cell.size - finite.size:
                return False
    return True
