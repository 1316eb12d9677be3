"""What the tests of the store share."""

from collections.abc import Iterator

import pytest

from tests.store.matrix import Nurseries


@pytest.fixture(autouse=True)
def without_a_child_per_file() -> None:
    """Here every file is looked at by the real child."""


@pytest.fixture(scope="session")
def nurseries() -> Iterator[Nurseries]:
    """Programs that fork victims."""
    started = Nurseries()
    yield started
    started.close()
