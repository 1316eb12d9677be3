"""Hooks into the system calls of a writer: to strike at one of them, or to log them all.

They replace the functions in `os`, by which the store makes every one of its calls.
"""

from __future__ import annotations

import itertools
import os
import signal
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nanscope.store import regions

NAMES = ("open", "pwrite", "ftruncate", "fsync", "fdatasync", "link")
PAGE = 4096
RECORD = struct.Struct("<8sQQQ")  # what, inode, offset, length of the data that follow

Call = Callable[..., Any]
Hook = Callable[[str, Call, tuple[Any, ...]], Any]


def install(hook: Hook) -> None:
    """From now on the calls go through `hook(name, call, arguments)`; a later hook sees them first."""
    for name in NAMES:
        setattr(os, name, _hooked(hook, name, getattr(os, name)))
    regions._sync_data = os.fdatasync


def _hooked(hook: Hook, name: str, call: Call) -> Call:
    def hooked(*arguments: Any, **options: Any) -> Any:
        return call(*arguments, **options) if options else hook(name, call, arguments)

    return hooked


class Strike:
    """SIGKILL at one call of the trainer or of the writer's thread.

    Args:
        number: of the call, from 0.
        moment: before, after, or in the middle of it: where the kernel looks for signals, between two pages.
        by: trainer or thread.
    """

    def __init__(self, number: int, moment: str, by: str) -> None:
        self._left = itertools.count(number, -1)
        self._moment = moment
        self._in_trainer = by == "trainer"

    def __call__(self, name: str, call: Call, arguments: tuple[Any, ...]) -> Any:
        """Make the call, or die of it."""
        mine = (threading.current_thread() is threading.main_thread()) == self._in_trainer
        if not mine or next(self._left) != 0:
            return call(*arguments)
        if self._moment == "middle" and name == "pwrite":
            descriptor, data, offset = arguments
            call(descriptor, memoryview(data).cast("B")[: PAGE - offset % PAGE], offset)
        if self._moment == "after":
            call(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)
        return signal.pause()


class Log:
    """Writes every call that changes a file into a log; `cutting.py` reads it."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._file = path.open("wb", buffering=0)

    def __call__(self, name: str, call: Call, arguments: tuple[Any, ...]) -> Any:
        """Make the call and note it once it is done; of a sync note also the beginning."""
        if name in ("fsync", "fdatasync"):
            self._note(b"sync", os.fstat(arguments[0]).st_ino)
            result = call(*arguments)
            self._note(b"synced", os.fstat(arguments[0]).st_ino)
            return result
        result = call(*arguments)
        if name == "pwrite":
            descriptor, data, offset = arguments
            self._note(b"write", os.fstat(descriptor).st_ino, offset, bytes(data)[:result])
        elif name == "ftruncate":
            self._note(b"truncate", os.fstat(arguments[0]).st_ino, arguments[1])
        elif name == "link":
            self._note(b"link", Path(arguments[0]).stat().st_ino, 0, os.fsencode(arguments[1]))
        return result

    def _note(self, what: bytes, inode: int, offset: int = 0, data: bytes = b"") -> None:
        with self._lock:
            self._file.write(RECORD.pack(what, inode, offset, len(data)) + data)


class Hang:
    """Blocks the writes of the writer's thread until `until` exists, like a disk that does not answer."""

    def __init__(self, until: Path) -> None:
        self._until = until

    def __call__(self, name: str, call: Call, arguments: tuple[Any, ...]) -> Any:
        """Make the call, late."""
        while name == "pwrite" and threading.current_thread() is not threading.main_thread():
            if self._until.exists():
                break
            time.sleep(0.001)
        return call(*arguments)
