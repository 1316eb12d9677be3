"""The story's files, written once for all tests here."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanscope.run import Run
from nanscope.store.reader import open_run
from tests.replay import story


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Run files by batch size."""
    return story.tell(tmp_path_factory.mktemp("story"))


@pytest.fixture(scope="session")
def file_of_one(files: dict[int, Path]) -> Run:
    """The case that dies, read from its file."""
    return open_run(files[1])
