"""What all tests share."""

import os

import pytest

from nanscope.store.guard import children


@pytest.fixture(autouse=True, scope="session")
def forking_beside_the_thread_of_xdist() -> None:
    """A worker of xdist has a second thread, which only waits for messages and holds no lock.

    Without this every run that a test opens would pay for a fresh interpreter; the tests of the sandbox take
    both ways by themselves.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        patch = pytest.MonkeyPatch()
        patch.setattr(children, "_is_alone", lambda: len(children.sys._current_frames()) <= 2)
