"""Runs of pytest within a test share the process, and torch with it."""

from __future__ import annotations

import sys

import pytest


class _Modules:
    """Unloads the programs of a run and keeps libraries: torch cannot be imported a second time."""

    def __init__(self, preserve: object = None) -> None:
        del preserve
        self._before = set(sys.modules)

    def restore(self) -> None:
        """Of what was imported since."""
        for name in set(sys.modules) - self._before:
            if name.partition(".")[0] in ("conftest", "test_it"):
                del sys.modules[name]


@pytest.fixture(autouse=True)
def libraries_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comes before the fixture `pytester`, which would unload them."""
    monkeypatch.setattr("_pytest.pytester.SysModulesSnapshot", _Modules)
