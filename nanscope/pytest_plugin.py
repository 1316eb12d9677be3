"""The pytest plugin's entry point: options, marker and fixture.

It is loaded by every run of pytest, so it imports nothing that is not needed to say no.

`pytest --nanscope`, or `nanscope = true` in the ini file, watches every test; `@pytest.mark.nanscope` or the
fixture `nanscope` watches one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from nanscope.plugin.explicit import Explicit

MARKER = (
    "nanscope(allow=, collapse=, modules=, phases=, skip=): fail if a NaN or an inf reaches an output, a "
    "loss, a gradient, a parameter or an optimizer's state; allow: 'nan', 'inf' or both; collapse: fail if "
    "the training collapses to one class, too; modules, phases: only what is born there; skip: do not watch."
)
WATCHER = "nanscope-watcher"


def pytest_addoption(parser: pytest.Parser) -> None:
    """See pytest."""
    group = parser.getgroup("nanscope", "fail on NaN and inf")
    group.addoption(
        "--nanscope", action="store_true", default=None, help="Watch every training and module call of tests."
    )
    group.addoption(
        "--nanscope-dir", metavar="DIR", help="Where the run files of failed tests are kept.  [.nanscope]"
    )
    parser.addini("nanscope", "watch every test, as --nanscope", "bool", default=False)
    parser.addini("nanscope_dir", "where the run files of failed tests are kept", default=".nanscope")
    parser.addini("nanscope_allow", "of nan and inf, what may occur in any test", "args", default=())
    parser.addini("nanscope_collapse", "fail on a collapse to one class in any test", "bool", default=False)
    parser.addini(
        "nanscope_modules", "patterns of modules: only what is born there fails", "args", default=()
    )
    parser.addini("nanscope_phases", "phases: only what is born there fails", "args", default=())
    parser.addini("nanscope_skip", "patterns of test ids that are not watched", "args", default=())


def pytest_configure(config: pytest.Config) -> None:
    """See pytest."""
    config.addinivalue_line("markers", MARKER)
    if is_on(config):
        _watch(config)


def is_on(config: pytest.Config) -> bool:
    """Whether every test is watched."""
    return bool(config.getoption("nanscope") or config.getini("nanscope"))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """See pytest; here, whether any test wants to be watched by itself."""
    if not config.pluginmanager.has_plugin(WATCHER) and any(map(wants, items)):
        _watch(config)


def wants(item: pytest.Item) -> bool:
    """Whether a test asks to be watched."""
    asked = item.get_closest_marker("nanscope") is not None
    return asked or "nanscope" in getattr(item, "fixturenames", ())


def _watch(config: pytest.Config) -> None:
    from nanscope.plugin.session import Session  # noqa: PLC0415 - only those who want it pay for it

    config.pluginmanager.register(Session(config, everywhere=is_on(config)), WATCHER)


@pytest.fixture(name="nanscope")
def _nanscope(request: pytest.FixtureRequest) -> Explicit:
    """Watch by hand: record(), expect_nonfinite(), diagnoses and findings to assert on."""
    from nanscope.plugin.explicit import Explicit  # noqa: PLC0415 - only those who want it pay for it

    session = request.config.pluginmanager.get_plugin(WATCHER)
    if session is None:
        raise pytest.UsageError("take the fixture nanscope as an argument of the test, or say --nanscope")
    return Explicit(session)
