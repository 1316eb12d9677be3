"""What all tests share."""

import os
import signal

import pytest

from nanscope.store.guard import children, sandbox
from nanscope.store.guard.answer import Answer, pack, unpack
from nanscope.store.guard.refusal import refused
from nanscope.store.guard.watched import WatchedFile

# one per worker of xdist, and per program that a test starts: two workers on two cores that run two threads
# each spend most of their time waiting for each other
os.environ.setdefault("OMP_NUM_THREADS", "1")

# a shell that starts the suite in the background has its programs ignore Ctrl-C, and those that they start
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers", "real_child: run files are looked at by a process of its own, as in a user's program"
    )


@pytest.fixture(autouse=True, scope="session")
def forking_beside_the_thread_of_xdist() -> None:
    """A worker of xdist has a second thread, which only waits for messages and holds no lock.

    Without this every run that a test opens would pay for a fresh interpreter; the tests of the sandbox take
    both ways by themselves.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        patch = pytest.MonkeyPatch()
        patch.setattr(children, "_is_alone", lambda: len(children.sys._current_frames()) <= 2)


@pytest.fixture(autouse=True)
def without_a_child_per_file(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that a test has just written are looked at in this process, not in one of their own.

    The copy of a process that holds torch costs five times what the rest of reading a small run does.
    """
    if request.node.get_closest_marker("real_child") is None:
        monkeypatch.setattr(sandbox, "_ask", _look_here)


def _look_here(descriptor: int, name: str) -> Answer:
    """What the child would do and say, its answer packed and unpacked as if it had come through a pipe."""
    try:
        return unpack(pack(children._look(WatchedFile(descriptor))))
    except ValueError:
        raise refused(name, "the look at it ended without an answer") from None
