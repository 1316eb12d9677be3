"""The process that looks at a file: what it may do, how it ends, what its end does to the user's program."""

from __future__ import annotations

import gc
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from h5py import h5pl

from nanscope.errors import RunFileError
from nanscope.store.guard import children, confine, memo, sandbox
from nanscope.store.guard.answer import ANSWER_BYTES
from nanscope.store.guard.refusal import Refusal
from nanscope.store.guard.sandbox import take_inventory
from nanscope.store.guard.survey import survey
from nanscope.store.guard.watched import WatchedFile
from nanscope.store.inventory import Inventory
from tests.store.crafts import sound

pytestmark = pytest.mark.real_child

WAYS = {"fork": children._fork, "interpreter": children._spawn}
LIMITS = ("RLIMIT_NOFILE", "RLIMIT_FSIZE", "RLIMIT_CORE")


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    """An open sound run file that nothing is known of."""
    sound(tmp_path / "run.h5")
    descriptor = os.open(tmp_path / "run.h5", os.O_RDONLY)
    memo._known.clear()
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any], Inventory]], None]:
    """Makes the child a copy of this process in which something else takes the place of the survey."""

    def patch(body: Callable[[Any], Inventory]) -> None:
        monkeypatch.setattr(children, "_start", children._fork)
        monkeypatch.setattr(children, "survey", body)

    return patch


def descriptors() -> list[str]:
    """Numbers of the open files, and of the one that lists them; what other tests let go of is closed."""
    gc.collect()
    return sorted(entry.name for entry in Path("/proc/self/fd").iterdir())


def refusal(file: int) -> str:
    """Why the inventory was refused; no child is left, no descriptor either."""
    before = descriptors()
    with pytest.raises(RunFileError) as caught:
        take_inventory(file, "run.h5")
    assert descriptors() == before
    assert "\n" not in str(caught.value)
    return caught.value.message


@pytest.mark.parametrize("way", WAYS)
def test_both_ways_give_what_is_in_the_file(file: int, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the process and a fresh interpreter: all attributes, texts and arrays; no position moves."""
    monkeypatch.setattr(children, "_start", WAYS[way])
    os.lseek(file, 5, os.SEEK_SET)
    found = take_inventory(file, "run.h5")
    assert found == survey(WatchedFile(file))
    assert found.texts["series/site"] == ["fc0.output", "fc1.output"]
    assert found.arrays["series/blocks"].shape == (4, 5, 64)
    assert os.lseek(file, 0, os.SEEK_CUR) == 5


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE])
def test_a_crash_is_a_sentence(file: int, forked: Any, number: signal.Signals) -> None:
    """Whatever signal ends the child."""
    forked(lambda _: os.kill(os.getpid(), number))
    assert refusal(file) == f"run.h5 was not opened: its structure crashes libhdf5 ({number.name})"


def test_a_crash_of_a_fresh_interpreter(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same sentence, from the exit code that `subprocess` gives."""
    monkeypatch.setattr(children, "_start", children._spawn)
    monkeypatch.setattr(children, "_PROGRAM", "import ctypes; ctypes.string_at(0)")
    assert refusal(file) == "run.h5 was not opened: its structure crashes libhdf5 (SIGSEGV)"


def test_a_hang_that_computes(file: int, forked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ended by its limit on processor time."""

    def spin(_: Any) -> NoReturn:
        while True:
            pass

    monkeypatch.setattr(confine, "CPU_SECONDS", 1)
    forked(spin)
    assert "longer than" in refusal(file)


@pytest.mark.parametrize("ends_itself", [True, False])
def test_a_hang_that_waits(
    file: int, forked: Any, monkeypatch: pytest.MonkeyPatch, ends_itself: bool
) -> None:
    """Ended by its own alarm clock; by the parent where it has turned it off."""

    def wait(_: Any) -> NoReturn:
        signal.alarm(1 if ends_itself else 0)
        while True:
            signal.pause()

    monkeypatch.setattr(sandbox, "WALL_SECONDS", 30 if ends_itself else 0)
    monkeypatch.setattr(sandbox, "_GRACE_SECONDS", 0.1)
    forked(wait)
    assert "longer than" in refusal(file)


def test_a_child_that_talks_without_end(file: int, forked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heard up to a bound, then ended."""

    def flood(_: Any) -> NoReturn:
        while True:
            os.write(1, bytes(1 << 16))

    monkeypatch.setattr(sandbox, "ANSWER_BYTES", 1 << 20)
    forked(flood)
    assert "takes more than 1 MiB to describe" in refusal(file)
    assert ANSWER_BYTES <= 128 << 20


def test_too_much_memory(file: int, forked: Any) -> None:
    """A limit of the child, said as such."""
    forked(lambda _: bytes(confine.MEMORY * 2))
    assert "takes more than 256 MiB of memory" in refusal(file)


@pytest.mark.parametrize("said", [b"", b"{", b"[" * 100_000, b"\xff", b"1"])
def test_an_answer_that_is_none(file: int, forked: Any, said: bytes) -> None:
    """Also from a child that ends as if all were well."""

    def say(_: Any) -> NoReturn:
        os.write(1, said)
        os._exit(0)

    forked(say)
    assert "ended without an answer" in refusal(file)


def test_what_the_child_may_do(file: int, forked: Any) -> None:
    """No file to open or write, no core, no plug-in; the file, the way back and the null device open."""

    def report(_: Any) -> NoReturn:
        limits = [resource.getrlimit(getattr(resource, name)) for name in LIMITS]
        try:
            os.open("/dev/null", os.O_RDONLY)
        except OSError as error:
            limits.append((error.errno or 0, 0))
        others = [number for number in range(3, 1024) if is_open(number)]
        raise Refusal(f"{limits} {others} {h5pl.size()} {Path('/proc/self/fd/2').readlink()}")

    forked(report)
    assert refusal(file).endswith("[(0, 0), (0, 0), (0, 0), (24, 0)] [] 0 /dev/null")


def is_open(number: int) -> bool:
    """Whether this is the number of an open file."""
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def test_no_handler_of_the_program_runs_in_the_child(file: int, forked: Any) -> None:
    """A signal that the user's program handles ends the child instead; the program's own stay in place."""
    seen: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: seen.append(os.getpid()))
    try:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        forked(lambda _: os.kill(os.getpid(), signal.SIGUSR1))
        assert "(SIGUSR1)" in refusal(file)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert seen == [os.getpid()]
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask
    finally:
        signal.signal(signal.SIGUSR1, before)


INTERRUPTED = """
import os, signal, sys, time
from nanscope.store.guard import children
from nanscope.store.reader import open_run
def interrupt(file):
    os.kill(os.getppid(), signal.SIGINT)
    while True: signal.pause()
children.survey = interrupt
try:
    open_run(sys.argv[1])
except KeyboardInterrupt:
    try: print(os.waitpid(-1, os.WNOHANG))
    except ChildProcessError: print("no child")
"""


def test_ctrl_c_leaves_no_child(file: int) -> None:
    """The child that was at work is gone, and reaped."""
    name = Path(f"/proc/self/fd/{file}").readlink()
    done = subprocess.run([sys.executable, "-c", INTERRUPTED, name], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"no child\n", b"")


def test_no_process_can_be_started(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said in one sentence, with the reason."""

    def fail(_: int) -> NoReturn:
        raise BlockingIOError(11, "busy")

    monkeypatch.setattr(children, "_fork", fail)
    monkeypatch.setattr(children, "_spawn", fail)
    assert refusal(file) == "run.h5 could not be checked (Resource temporarily unavailable)"


def test_a_fork_that_fails_is_made_up_for(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large process may have no memory for a copy: a fresh interpreter does it."""

    def fail() -> NoReturn:
        raise OSError(12, "no memory")

    monkeypatch.setattr(os, "fork", fail)
    monkeypatch.setattr(sys, "_current_frames", lambda: {1: None})
    before = descriptors()
    assert take_inventory(file, "run.h5").attributes["format"] == "nanscope-run"
    assert descriptors() == before
