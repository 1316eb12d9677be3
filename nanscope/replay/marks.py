"""Marks: steps that a person has noted, in a file beside the run; the run file itself is never written."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from nanscope.errors import UsageError
from nanscope.store.text import clean

LAST = 2**63 - 1  # no step has a higher number
_UNSOUND = (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError)


@dataclass(frozen=True, slots=True)
class Mark:
    """A note at a step."""

    step: int
    note: str


def path_of(run: Path) -> Path:
    """`run.h5.marks.json`."""
    return run.with_name(f"{run.name}.marks.json")


def read(run: Path) -> tuple[Mark, ...]:
    """The marks of a run, by step; none where the file holds anything else."""
    try:
        entries = json.loads(path_of(run).read_text(encoding="utf-8"))
        marks = [Mark(int(entry["step"]), clean(str(entry["note"]))) for entry in entries]
    except _UNSOUND:
        return ()
    known = (mark for mark in marks if 0 <= mark.step <= LAST)
    return tuple(sorted(known, key=lambda mark: mark.step))


def add(run: Path, mark: Mark) -> tuple[Mark, ...]:
    """Note one more; a mark at the same step is replaced.

    Raises:
        UsageError: the file beside the run cannot be written.
    """
    kept = [each for each in read(run) if each.step != mark.step]
    marks = tuple(sorted([*kept, mark], key=lambda each: each.step))
    try:
        _write(path_of(run), json.dumps([asdict(each) for each in marks], indent=1))
    except OSError as error:
        raise UsageError(
            f"the mark cannot be kept: {error}", f"make {path_of(run).parent} writable"
        ) from None
    return marks


def _write(path: Path, text: str) -> None:
    """In place of what was there at once, so that no mark is lost half-way."""
    beside = path.with_name(f"{path.name}.new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
