"""What the tests of the store share."""

from collections.abc import Iterator

import pytest

from tests.store.killing import Nursery


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """Victims that only append rows."""
    started = Nursery()
    yield started
    started.close()
