"""Go to: what a person types to say where."""

from __future__ import annotations

import re
from collections.abc import Sequence

from nanscope.errors import UsageError
from nanscope.replay.cases import Case
from nanscope.replay.marks import Mark
from nanscope.replay.stops import first_bad

FORMS = "a step (1204233), 50%, an epoch (e3.5), +1k, -1k, nan, or the note of a mark"
_NUMBER = re.compile(r"(\d[\d_ ,]*(?:\.\d+)?)([kKmM]?)")
_FACTOR = {"": 1.0, "k": 1e3, "m": 1e6}


def row_of(text: str, case: Case, row: int, marks: Sequence[Mark] = ()) -> int:
    """The row that a text means, seen from a row.

    Raises:
        UsageError: it means none.
    """
    text = text.strip()
    if mark := next((mark for mark in marks if mark.note == text), None):
        return case.row_of(mark.step)
    if text.lower() in ("nan", "inf", "!"):
        return _of_bad(case)
    if text[:1] in ("+", "-") and (count := _number(text[1:])) is not None:
        return row + round(count if text[0] == "+" else -count)
    if text.endswith("%") and (share := _number(text[:-1])) is not None:
        return round(min(share, 100.0) / 100 * (case.rows - 1))
    if text[:1] in ("e", "E") and (epoch := _number(text[1:])) is not None:
        return _of_epoch(case, epoch)
    if (step := _number(text)) is not None:
        return case.row_of(round(step))
    raise UsageError(f"{text!r} is no place", f"type {FORMS}")


def _number(text: str) -> float | None:
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        return None
    return float(re.sub(r"[_ ,]", "", match[1])) * _FACTOR[match[2].lower()]


def _of_bad(case: Case) -> int:
    bad = first_bad(case)
    if bad is None:
        raise UsageError("no non-finite value was found", "try n, the next event")
    return bad.row


def _of_epoch(case: Case, epoch: float) -> int:
    if case.per_epoch is None:
        raise UsageError("the length of an epoch was not recorded", "type a step")
    return case.row_of(round(epoch * case.per_epoch))
