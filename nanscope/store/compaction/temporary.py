"""The file that compaction writes before it takes the run file's place.

It lies beside the run file under a name that says so, and is locked as long as somebody works on it. One
without a lock was left by a process that was killed: the next compaction of that run removes it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

try:
    from fcntl import LOCK_EX, LOCK_NB, flock
except ImportError:  # Windows: what a killed compaction leaves is left there
    flock = None  # type: ignore[assignment] # said by the caller's test


@dataclass(frozen=True)
class Temporary:
    """An empty file of our own, and its open descriptor."""

    path: Path
    descriptor: int


@contextmanager
def temporary_for(target: Path) -> Iterator[Temporary]:
    """A new file beside `target`; removed at the end unless it was renamed.

    Raises:
        OSError: it cannot be made.
    """
    path = target.with_name(f"{_prefix(target)}{secrets.token_hex(8)}.tmp")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        _lock(descriptor)
        yield Temporary(path, descriptor)
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)


def remove_stale(target: Path) -> None:
    """Remove what killed compactions of `target` left behind."""
    prefix = _prefix(target)
    for path in target.parent.iterdir():
        if path.name.startswith(prefix) and path.suffix == ".tmp":
            with suppress(OSError):
                _remove_unlocked(path)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk itself."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _prefix(target: Path) -> str:
    return f".{target.name}.compact-"


def _lock(descriptor: int) -> bool:
    if flock is None:
        return False
    try:
        flock(descriptor, LOCK_EX | LOCK_NB)
    except OSError:  # taken, or a file system without locks
        return False
    return True


def _remove_unlocked(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        if _lock(descriptor):
            path.unlink()
    finally:
        os.close(descriptor)
