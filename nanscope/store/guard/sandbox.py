"""libhdf5 in a process of its own: whatever a file does to it, the user's program only hears of it.

A child process (`children.py`) looks at the open file within limits (`confine.py`), says what is in it
(`survey.py`) and ends. Its answer is data like any other (`answer.py`).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from typing import IO

from nanscope.errors import RunFileError
from nanscope.store.guard.answer import ANSWER_BYTES, Answer, unpack
from nanscope.store.guard.children import Child, start
from nanscope.store.guard.confine import CPU_SECONDS, WALL_SECONDS
from nanscope.store.guard.memo import recall, remember
from nanscope.store.guard.refusal import damaged, refused
from nanscope.store.inventory import Inventory

_GRACE_SECONDS = 2  # after which the child did not keep its own limit
_TIME_SIGNALS = {getattr(signal, name, None) for name in ("SIGALRM", "SIGXCPU")}  # Windows has neither
_PIECE = 1 << 16
_CAN_POLL = hasattr(select, "poll")


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
        remember(descriptor, answer.inventory, answer.evidence)
        return answer.inventory
    if answer.reason:
        raise refused(name, answer.reason)
    raise damaged(name)


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
        raise refused(name, _failure(status, late, len(data))) from None


def _listen(child: Child) -> tuple[bytes, bool]:
    """What the child says, up to a bound, and whether it took too long."""
    end = time.monotonic() + WALL_SECONDS + _GRACE_SECONDS
    data = bytearray()
    with _alarm(child):
        while child.stdout and len(data) <= ANSWER_BYTES:
            if not _says_more(child.stdout, end - time.monotonic()):
                return bytes(data), True
            piece = child.stdout.read(_PIECE)
            if not piece:
                break
            data += piece
    return bytes(data), time.monotonic() > end


def _says_more(stream: IO[bytes], seconds: float) -> bool:
    """Wait until something can be read, the end included; False when the time is over."""
    if not _CAN_POLL:
        return seconds > 0
    poll = select.poll()
    poll.register(stream, select.POLLIN)
    return bool(poll.poll(max(0.0, 1000 * seconds)))


@contextlib.contextmanager
def _alarm(child: Child) -> Iterator[None]:
    """Where a pipe cannot be waited for with a bound (Windows): end the child from another thread."""
    if _CAN_POLL:
        yield
        return
    timer = threading.Timer(WALL_SECONDS + _GRACE_SECONDS, child.kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _failure(status: int, late: bool, size: int) -> str:
    """Why there is no answer."""
    if size > ANSWER_BYTES:
        return f"its structure takes more than {ANSWER_BYTES >> 20} MiB to describe"
    if late or -status in _TIME_SIGNALS:
        return f"looking at its structure takes longer than {CPU_SECONDS} seconds of work"
    if status < 0:
        names = {number.value: number.name for number in signal.Signals}
        return f"its structure crashes libhdf5 ({names.get(-status, -status)})"
    return "the process that looked at it ended without an answer"
