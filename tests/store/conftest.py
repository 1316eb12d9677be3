"""What the tests of the store share."""

from collections.abc import Iterator

import pytest

from tests.store.matrix import Nurseries


@pytest.fixture(scope="session")
def nurseries() -> Iterator[Nurseries]:
    """Programs that fork victims."""
    started = Nurseries()
    yield started
    started.close()
