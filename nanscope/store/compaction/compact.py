"""Compaction: a run that nobody writes any more, in one compressed file, bit for bit the same.

The new file is written beside the old one, read again and compared; only then does it take the name, and only
then are the other parts removed. Whatever happens in between, the run is there: as it was, or compacted.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nanscope.errors import RunFileError, UsageError
from nanscope.store.compaction.codec import pack
from nanscope.store.compaction.compare import compare
from nanscope.store.compaction.draft import Draft, draw
from nanscope.store.compaction.file import CHUNK_ROWS, making
from nanscope.store.compaction.fill import Progress, fill
from nanscope.store.compaction.temporary import Temporary, remove_stale, sync_folder, temporary_for
from nanscope.store.contents import open_contents
from nanscope.store.parts import first_name
from nanscope.store.reader import Part, open_parts, start_of
from nanscope.store.sizes import ROWS

Precision = Literal["12bit"]
Report = Callable[[int, int], None]

AT_CLOSE_SECONDS = 2.0
SAMPLE = 16  # chunks from which the time is estimated

_HINTS = {
    errno.ENOSPC: "free space on the disk and try again",
    errno.EDQUOT: "the quota is used up: free space and try again",
    errno.EFBIG: "the file system or a limit (ulimit -f) refuses a file of this size",
    errno.EROFS: "the file system is read-only: copy the run elsewhere first",
    errno.EACCES: "its folder cannot be written: copy the run elsewhere first",
    errno.EPERM: "its folder cannot be written: copy the run elsewhere first",
}


@dataclass(frozen=True)
class Compaction:
    """What came of it.

    Attributes:
        path: the file that holds the run now.
        before_bytes, after_bytes: on the disk, all parts; the same when nothing was done.
        raw_bytes: rows without any file around them: 4 for each value, 16 for step and time.
        rows: number of rows.
        seconds: that it took.
        done: False where the file was compacted already and was left alone.
    """

    path: Path
    before_bytes: int
    after_bytes: int
    raw_bytes: int
    rows: int
    seconds: float
    done: bool


def compact(
    path: str | Path,
    *,
    precision: Precision | None = None,
    progress: Report | None = None,
) -> Compaction:
    """Put a closed or killed run, all its parts, into one compressed file in place of the first part.

    Args:
        path: the run file, by the name of any of its parts.
        precision: `12bit` rounds norms of activations and gradients and the loss to 12 bits of mantissa (a
            relative error of at most 2**-13); None keeps every bit.
        progress: is called with the rows done so far and their total; each row counts twice, once when it is
            written and once when it is compared. Not always from the calling thread.

    Raises:
        RunFileError: the run cannot be read, or the copy was not the same.
        UsageError: the run is still being written, or the disk does not take the copy. Nothing was changed.
    """
    started = time.monotonic()
    parts, _ = open_parts(Path(path))
    compacted = parts[0].contents.layout is None
    before = sum(_allocated(part.path) for part in parts)
    if compacted and precision is not None:
        raise UsageError(
            f"{parts[0].path} is compacted already, with every bit", "record it anew to round it"
        )
    draft = None if compacted else _draft(parts, precision)
    if draft is not None:
        _replace(parts, draft, _Counter(progress, 2 * draft.source.rows))
    for left in _absorbed(parts[0], draft.count if draft else parts[0].contents.parts):
        left.unlink(missing_ok=True)
    header, source = (draft.header, draft.source) if draft else (parts[0].header, parts[0].source)
    return Compaction(
        path=parts[0].path,
        before_bytes=before,
        after_bytes=_allocated(parts[0].path),
        raw_bytes=source.rows * (4 * len(header.columns) + 16),
        rows=source.rows,
        seconds=time.monotonic() - started,
        done=not compacted,
    )


def compact_at_close(path: str | Path, *, seconds: float = AT_CLOSE_SECONDS) -> Compaction | None:
    """Compact a run that was just closed, if that is a matter of moments; else leave it as it is.

    Never raises and says nothing: the run file is sound either way.

    Args:
        path: the run file.
        seconds: that it may take, as estimated from compressing a few chunks.
    """
    end = time.monotonic() + 2 * seconds

    def watch(_done: int, _total: int) -> None:
        if time.monotonic() > end:  # the estimate was wrong: the disk is slow or the machine is busy
            raise TimeoutError

    try:
        return compact(path, progress=watch) if _estimate(path) <= seconds else None
    except Exception as error:  # noqa: BLE001 - the training must end as it would without compaction
        traceback.clear_frames(error.__traceback__)  # they hold the run file open
        return None


class _Counter:
    """Sums up what is done."""

    def __init__(self, report: Report | None, total: int) -> None:
        self._report = report
        self._total = total
        self._done = 0

    def __call__(self, rows: int) -> None:
        self._done += rows
        if self._report is not None:
            self._report(self._done, self._total)


def _draft(parts: Sequence[Part], precision: Precision | None) -> Draft:
    """What is to be written.

    Raises:
        UsageError: it must not be.
    """
    if precision not in (None, "12bit"):
        raise UsageError(f"there is no precision {precision}", "choose 12bit, or none to keep every bit")
    if any(part.state == "live" for part in parts):
        raise UsageError(f"{parts[0].path} is still being written", "compact it when the training has ended")
    draft = draw(parts, round_norms=precision is not None)
    if draft.source.rows > ROWS:
        raise UsageError(f"{parts[0].path} has more than {ROWS:,} steps", "its parts can be read as they are")
    return draft


def _replace(parts: Sequence[Part], draft: Draft, progress: Progress) -> None:
    path, before = parts[0].path, _marks(parts)
    target = Path(os.path.realpath(path))
    try:
        remove_stale(target)
        with temporary_for(target) as temporary:
            _write(temporary, draft, progress)
            _check(temporary, path, draft, progress)
            if _marks(parts) != before:
                raise UsageError(
                    f"{path} was changed while it was compacted", "try again when nobody writes it"
                )
            os.fchmod(temporary.descriptor, stat.S_IMODE(target.stat().st_mode))
            temporary.path.replace(target)
            sync_folder(target.parent)  # before the other parts may go
    except OSError as error:
        hint = _HINTS.get(error.errno or 0, "it is as it was")
        raise UsageError(f"cannot compact {path} ({os.strerror(error.errno or 0)})", hint) from error


def _write(temporary: Temporary, draft: Draft, progress: Progress) -> None:
    """Write the new file in a thread of its own: an interrupt must not reach h5py in mid-write."""
    stop = threading.Event()

    def work() -> None:
        with making(temporary.descriptor, draft) as file:
            fill(file, draft, progress, stop)

    with ThreadPoolExecutor(1, "nanscope-compact-file") as thread:
        try:
            thread.submit(work).result()
        finally:
            stop.set()
    os.fsync(temporary.descriptor)


def _check(temporary: Temporary, path: Path, draft: Draft, progress: Progress) -> None:
    try:
        compare(temporary.path, draft, progress)
    except RunFileError as error:
        raise RunFileError(f"{path} was not compacted: {error.message}", "it is as it was") from error


def _marks(parts: Sequence[Part]) -> list[tuple[int, int, int]]:
    """What changes when somebody writes or replaces a part."""
    found = [part.path.stat() for part in parts]
    return [(status.st_ino, status.st_size, status.st_mtime_ns) for status in found]


def _absorbed(first: Part, count: int) -> Iterator[Path]:
    """Parts that a compacted file holds and that are still there, perhaps since a crash at this point."""
    contents, start = first.contents, start_of(first)
    for path in sorted(start.parent.iterdir()):
        if path == start or first_name(path) != start:
            continue
        with suppress(RunFileError):
            found, descriptor = open_contents(path, str(path))
            os.close(descriptor)
            inside = contents.part < found.part < contents.part + count
            if found.run_id == contents.run_id and inside and found.layout is not None:
                yield path


def _allocated(path: Path) -> int:
    try:
        status = path.stat()
    except FileNotFoundError:  # another compaction was quicker
        return 0
    return 512 * status.st_blocks if hasattr(status, "st_blocks") else status.st_size


def _estimate(path: str | Path) -> float:
    """Seconds that compaction will take, measured on a few chunks."""
    parts, _ = open_parts(Path(path))
    draft = draw(parts, round_norms=False)
    rows, columns = draft.source.rows, len(draft.header.columns)
    start = time.monotonic()
    sample = range(0, columns, -(-columns // SAMPLE))
    for index in sample:
        pack(draft.values(index, max(0, rows - CHUNK_ROWS), rows))
    chunks = max(1, -(-rows // CHUNK_ROWS)) * columns
    # as long again to read and compare; the cores are not counted on
    return 2 * (time.monotonic() - start) / len(sample) * chunks
