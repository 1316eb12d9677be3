"""The files of the runs, looked at beside the worker: reading one takes long, and keys must not wait."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nanscope.errors import RunFileError
from nanscope.numbers import count, duration
from nanscope.replay.cases import Case, open_case

STALLED = 10.0  # seconds without a row
ENDED = {"killed": "ENDED killed", "failed": "ENDED failed", "interrupted": "ENDED interrupted"}
Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class News:
    """What the files hold now.

    Attributes:
        fresh: cases that were read again, by path.
        trouble: what cannot be read any more, or is another file now, in words; empty if all is well.
    """

    fresh: Mapping[Path, Case]
    trouble: str = ""


def stamp_of(path: Path) -> Stamp | None:
    """What tells a file from its successor; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def look(cases: Sequence[Case], stamps: Mapping[Path, Stamp | None]) -> News:
    """Read again what is still being written, and see whether the other files are what they were."""
    trouble = [
        case.path for case in cases if not case.is_live and stamp_of(case.path) != stamps.get(case.path)
    ]
    news = reread([case for case in cases if case.is_live])
    return News(
        news.fresh, news.trouble or (f"file changed on disk: {trouble[0]}: R reopens" if trouble else "")
    )


def reread(cases: Sequence[Case]) -> News:
    """Read cases again; one that cannot be read stays as it was."""
    fresh: dict[Path, Case] = {}
    for case in cases:
        try:
            fresh[case.path] = open_case(case.path)
        except (RunFileError, OSError) as error:
            return News(fresh, f"file changed on disk: {error}: R reopens")
    return News(fresh)


def notice_of(case: Case, row: int, *, follows: bool) -> str:
    """How the writer of a run does, for the header; empty for one that simply ended."""
    if not case.is_live:
        return ENDED.get(case.run.state, "")
    if not follows and row < case.rows - 1:
        return f"HELD {count(case.rows - 1 - row)} newer: End"
    try:
        age = max(0.0, time.time() - case.path.stat().st_mtime)
    except OSError:
        return "FILE GONE"
    return f"{'STALLED' if age > STALLED else 'LIVE'} {duration(age)}"
