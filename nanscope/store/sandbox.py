"""libhdf5 in a process of its own: whatever a file does to it, the user's program only hears of it.

A child process (`children.py`) looks at the open file within limits (`confine.py`), says what is in it
(`guard.py`) and ends. Its answer is data like any other (`answer.py`).
"""

from __future__ import annotations

import os
import signal
import threading
from typing import IO

from nanscope.errors import RunFileError
from nanscope.store.answer import ANSWER_BYTES, Answer, unpack
from nanscope.store.children import Child, start
from nanscope.store.confine import CPU_SECONDS, WALL_SECONDS
from nanscope.store.inventory import Inventory
from nanscope.store.memo import recall, remember

_DISTRUST = "do not trust this file; ask where it comes from for the one that was recorded"
_GRACE_SECONDS = 2  # after which the child did not keep its own limit
_TIME_SIGNALS = {getattr(signal, name, None) for name in ("SIGALRM", "SIGXCPU")}  # Windows has neither
_PIECE = 1 << 16


def take_inventory(descriptor: int, name: str) -> Inventory:
    """What is in an open HDF5 file.

    Args:
        descriptor: of the file, a regular one; its position stays as it is.
        name: how messages call it.

    Raises:
        RunFileError: the file is damaged, holds what no run file holds, or could not be looked at in bounds.
    """
    known = recall(descriptor)
    if known is not None:
        return known
    answer = _ask(descriptor, name)
    if answer.inventory is not None:
        remember(descriptor, answer.inventory, answer.reads, answer.digest)
        return answer.inventory
    if answer.reason:
        raise RunFileError(f"{name} was not opened: {answer.reason}", _DISTRUST)
    raise damaged(name)


def damaged(name: str) -> RunFileError:
    """The error for a file that is not as it was written."""
    return RunFileError(f"{name} is damaged or cut short", "copy it again from where it was recorded")


def _ask(descriptor: int, name: str) -> Answer:
    try:
        with start(descriptor) as child:
            data, late = _listen(child)
            child.kill()  # it has said all that is heard
            status = child.wait()
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise RunFileError(f"{name} could not be checked ({reason})", "free memory or processes") from error
    try:
        return unpack(data)
    except ValueError:
        raise RunFileError(f"{name} was not opened: {_failure(status, late, len(data))}", _DISTRUST) from None


def _listen(child: Child) -> tuple[bytes, bool]:
    """What the child says, up to a bound, and whether it had to be ended."""
    late = threading.Event()

    def end() -> None:
        late.set()
        child.kill()

    timer = threading.Timer(WALL_SECONDS + _GRACE_SECONDS, end)
    timer.start()
    try:
        return _read(child.stdout), late.is_set()
    finally:
        timer.cancel()
        timer.join()


def _read(stream: IO[bytes] | None) -> bytes:
    data = bytearray()
    while stream and len(data) <= ANSWER_BYTES:
        piece = stream.read(_PIECE)
        if not piece:
            break
        data += piece
    return bytes(data)


def _failure(status: int, late: bool, size: int) -> str:
    """Why there is no answer."""
    if size > ANSWER_BYTES:
        return f"its structure takes more than {ANSWER_BYTES >> 20} MiB to describe"
    if late or -status in _TIME_SIGNALS:
        return f"looking at its structure takes longer than {CPU_SECONDS} seconds"
    if status < 0:
        return f"its structure crashes libhdf5 ({signal.Signals(-status).name})"
    return "the process that looked at it ended without an answer"
