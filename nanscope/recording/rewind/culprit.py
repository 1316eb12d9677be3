"""Which sample of the batch is to blame: the step is executed again without it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

MOST_ROWS = 1_024  # a larger batch is not halved: it would take too long
FEW = 16  # suspects that are left out one by one
CONTROLS = 2  # other rows that are left out instead, to see whether any would do

Attempt = Callable[[Collection[int]], bool]
"""Whether a step is finite without these rows."""


def culprit(suspects: Sequence[int], rows: int, attempt: Attempt) -> dict[str, Any]:
    """The fields `samples`, `samples_checked` and `samples_how` of an origin.

    A row is to blame if the step is finite without it, and is not without another one in its place: a sum
    that overflows by a hair is finite without any of its terms.

    Args:
        suspects: rows whose elements were not finite; empty if that cannot be told.
        rows: samples in the batch.
        attempt: executes the step without some rows.
    """
    if rows < 2:
        return {"samples": list(suspects), "samples_checked": None}
    if 0 < len(suspects) < rows:
        checked = _is_to_blame(suspects, rows, attempt)
        alone = [row for row in suspects if attempt([row])] if checked and 1 < len(suspects) <= FEW else []
        if len(alone) == 1:
            return {"samples": alone, "samples_checked": True, "samples_how": "left out one by one"}
        return {"samples": list(suspects), "samples_checked": checked, "samples_how": "rows of the result"}
    found = _halved(list(range(rows)), attempt) if rows <= MOST_ROWS else None
    if found is not None and _is_to_blame([found], rows, attempt):
        return {"samples": [found], "samples_checked": True, "samples_how": "halving"}
    return {"samples": [], "samples_checked": None}


def _is_to_blame(suspects: Sequence[int], rows: int, attempt: Attempt) -> bool:
    others = [row for row in range(rows) if row not in suspects]
    controls = [others[:: max(1, len(others) // CONTROLS)][i] for i in range(min(CONTROLS, len(others)))]
    return attempt(suspects) and not any(attempt([row]) for row in controls)


def _halved(rows: list[int], attempt: Attempt) -> int | None:
    """The one row without which it may be finite; None if there is no single one."""
    while len(rows) > 1:
        middle = len(rows) // 2
        halves = rows[:middle], rows[middle:]
        rows = next((half for half in halves if attempt(half)), [])
    return rows[0] if rows else None
