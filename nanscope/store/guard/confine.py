"""Limits that a process sets on itself before it looks at a file that nobody vouches for."""

from __future__ import annotations

import faulthandler
import math
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from h5py import h5pl

if sys.platform != "win32":
    import resource

MEMORY = 256 << 20  # bytes beyond what the process has when it begins
CPU_SECONDS = 3
WALL_SECONDS = 30


def confine() -> None:
    """Give up, for good, what reading one open file does not need.

    No other file can be opened, none can be written, no plug-in is looked for; memory, processor time and
    time are bounded. On Windows, which has no such limits, the bound on time is kept by the parent alone.
    """
    faulthandler.disable()  # a crash here is an answer, not something to report on the user's screen
    while h5pl.size():
        h5pl.remove(0)
    if sys.platform == "win32":
        return
    _default_signals()
    signal.alarm(WALL_SECONDS)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CPU, math.ceil(time.process_time()) + CPU_SECONDS, grace=1)
    with suppress(OSError):  # without /proc the other limits must do
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
        _limit(resource.RLIMIT_AS, pages * os.sysconf("SC_PAGESIZE") + MEMORY)
    _limit(resource.RLIMIT_NOFILE, 0)


def _default_signals() -> None:
    """No handler of the parent's program runs here; Ctrl-C is the parent's to answer."""
    for number in signal.valid_signals():
        with suppress(OSError, ValueError):  # some belong to the kernel or the C library
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _limit(kind: int, value: int, grace: int = 0) -> None:
    """Lower a limit; `grace` keeps the kernel's SIGKILL behind the signal that tells the reason."""
    soft, hard = (
        value + grace if limit == resource.RLIM_INFINITY else limit for limit in resource.getrlimit(kind)
    )
    resource.setrlimit(kind, (min(soft, value), min(hard, value + grace)))
