"""Child processes that look at one file: how they are started, what they do, how they end.

By a fork where that is safe, on Linux while the program has one thread: it takes a few milliseconds. Else by
a fresh interpreter, for the price of its start. Either way standard input is the file, standard output
takes the answer, and nothing else is open.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NoReturn, Protocol

from nanscope.store.guard.answer import Answer, pack
from nanscope.store.guard.confine import MEMORY, confine
from nanscope.store.guard.evidence import NO_EVIDENCE, evidence
from nanscope.store.guard.refusal import Refusal
from nanscope.store.guard.survey import survey
from nanscope.store.guard.watched import WatchedFile

if sys.platform != "win32":
    import fcntl

# what h5py, numpy and libhdf5 raise on a file that is not as HDF5 says
_DAMAGE = (OSError, KeyError, IndexError, ValueError, TypeError, AttributeError, RuntimeError, OverflowError)
_PROGRAM = "import sys; sys.path[:] = sys.argv[1:]; from nanscope.store.guard.children import serve; serve()"


class Child(Protocol):
    """A running child process, as `subprocess.Popen` has it."""

    @property
    def stdout(self) -> IO[bytes] | None:
        """What it says."""

    def kill(self) -> None:
        """End it, if it has not ended."""

    def wait(self) -> int:
        """Its exit code, or the number of the signal that ended it, negative."""


@contextlib.contextmanager
def start(descriptor: int) -> Iterator[Child]:
    """A child that looks at the open file; afterwards there is none, not even as a zombie.

    Raises:
        OSError: no process can be started.
    """
    held = _hold_signals()  # Ctrl-C between start and `try` would leave a child behind
    try:
        child = _start(descriptor)
        try:
            _release_signals(held)
            yield child
        finally:
            child.kill()
            child.wait()
            if child.stdout:
                child.stdout.close()
    finally:
        _release_signals(held)


def serve() -> NoReturn:
    """What the child does: standard input is the file, standard output takes the answer."""
    try:
        confine()
        data = memoryview(pack(_look(WatchedFile(0))))
        while data:
            data = data[os.write(1, data) :]
        os._exit(0)  # without the parent's buffers, exit handlers and destructors, nor libhdf5's
    finally:
        os._exit(1)


def _look(file: WatchedFile) -> Answer:
    try:
        inventory = survey(file)
    except Refusal as refusal:
        return Answer(reason=str(refusal))
    except MemoryError:
        return Answer(reason=f"looking at its structure takes more than {MEMORY >> 20} MiB of memory")
    except _DAMAGE:
        return Answer()
    proof = NO_EVIDENCE if file.pieces is None else evidence(file.pieces, inventory.arrays)
    return Answer(inventory, evidence=proof)


def _start(descriptor: int) -> Child:
    if sys.platform == "linux" and _is_alone():
        with contextlib.suppress(OSError):  # such as no memory for a copy of a large process
            return _fork(descriptor)
    return _spawn(descriptor)


def _is_alone() -> bool:
    """Whether this is the only thread: a fork copies locks that others hold."""
    frames = sys._current_frames()  # noqa: SLF001 - knows also threads that no module registered
    return len(frames) == 1


class _Forked:
    def __init__(self, pid: int, stdout: IO[bytes]) -> None:
        self.stdout = stdout
        self._pid = pid
        self._status: int | None = None

    def kill(self) -> None:
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)

    def wait(self) -> int:
        if self._status is None:
            try:
                self._status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
            except ChildProcessError:
                self._status = 0  # the program has its children reaped by others
        return self._status


def _fork(descriptor: int) -> _Forked:
    reader, writer = os.pipe()
    try:
        with warnings.catch_warnings():
            # Python 3.12 counts numpy's idle threads and warns of them; none of them holds a lock of ours
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
    except OSError:
        os.close(reader)
        os.close(writer)
        raise
    if pid == 0:
        _serve_forked(descriptor, writer)
    os.close(writer)
    return _Forked(pid, open(reader, "rb", buffering=0))  # noqa: PTH123 - a descriptor, closed by `start`


def _serve_forked(descriptor: int, writer: int) -> NoReturn:
    """From a copy of the user's program to a child that has the file and the way back, nothing else."""
    try:
        gc.disable()  # no destructor of the user's objects runs here
        kept = (descriptor, os.open(os.devnull, os.O_WRONLY), writer)
        high = [fcntl.fcntl(number, fcntl.F_DUPFD, 3) for number in kept]
        for number, place in zip(high, (0, 2, 1), strict=True):
            os.dup2(number, place)
        with contextlib.suppress(OSError):  # without /proc they stay open, and unused
            os.closerange(3, 1 + max(int(entry.name) for entry in Path("/proc/self/fd").iterdir()))
        serve()
    finally:
        os._exit(1)


def _spawn(descriptor: int) -> subprocess.Popen[bytes]:
    root = Path(__file__).parents[3]
    path = [str(root), *(entry for entry in sys.path if Path(entry).is_absolute())]
    if getattr(sys, "frozen", False):
        raise FileNotFoundError(2, "no Python interpreter")  # sys.executable is the user's program
    return subprocess.Popen(  # noqa: S603 - the interpreter that runs this, with its own search path
        [sys.executable, "-I", "-S", "-c", _PROGRAM, *path],
        bufsize=0,
        stdin=descriptor,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HDF5_PLUGIN_PRELOAD": "::", "OPENBLAS_NUM_THREADS": "1"},
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )


def _hold_signals() -> set[Any]:
    if not hasattr(signal, "pthread_sigmask"):
        return set()
    return signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def _release_signals(held: set[Any]) -> None:
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
