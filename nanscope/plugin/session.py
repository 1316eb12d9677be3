"""The hooks around each phase of each test: begin to watch, and charge what was seen where it happened."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Generator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from nanscope.plugin.annotations import lines_for_github, properties
from nanscope.plugin.imports import TorchImport, is_imported
from nanscope.plugin.policy import Policy, PolicyError
from nanscope.pytest_plugin import wants

if TYPE_CHECKING:  # importing them for real would load torch, or h5py
    from nanscope.plugin.failure import Failure
    from nanscope.plugin.sighting import Sighting
    from nanscope.plugin.watch import Watch

LONGEST_NAME = 80  # letters of a test's name in the name of its run file

T = TypeVar("T")
Wrapper = Generator[None, T, T]


class Session:
    """Registered while any test is watched.

    Args:
        everywhere: whether every test is watched, or only those that ask for it.
    """

    def __init__(self, config: pytest.Config, *, everywhere: bool) -> None:
        self._config, self._everywhere = config, everywhere
        named = config.getoption("nanscope_dir")
        self.folder = config.invocation_params.dir / named if named else self._from_ini()
        self._default = _checked(lambda: Policy().but(_ini_arguments(config)))
        self._skipped: tuple[str, ...] = tuple(config.getini("nanscope_skip"))
        self._import = TorchImport(self._begin_watch)
        self._watch: Watch | None = None
        self._item: pytest.Item | None = None
        self._policy = self._default

    def _from_ini(self) -> Path:
        return self._config.rootpath / str(self._config.getini("nanscope_dir"))

    # -- pytest's hooks -------------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Wrapper[Any]:
        """See pytest."""
        self._item, self._policy = item, Policy(skip=True)
        try:
            self._policy = self._policy_of(item)
        except PolicyError as error:
            yield
            pytest.fail(str(error), pytrace=False)
        if not self._policy.skip and os.path.isdir(self.folder):  # noqa: PTH112 - before every test: a third of the time
            _forget(self.run_file)
        return (yield from self._phase("setup"))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Wrapper[Any]:
        """See pytest."""
        del item
        return (yield from self._phase("call"))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Wrapper[Any]:
        """See pytest."""
        del item
        return (yield from self._phase("teardown"))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any], request: Any) -> Wrapper[Any]:
        """See pytest; what a fixture trains is the fixture's fault, for every test that takes it."""
        result = yield
        text = self._settled()
        if text is not None:
            failed = pytest.fail.Exception(f"in the fixture {fixturedef.argname!r}: {text}", pytrace=False)
            fixturedef.cached_result = (None, fixturedef.cache_key(request), (failed, None))
            raise failed
        return result

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """See pytest."""
        for line in lines_for_github(terminalreporter.stats):
            terminalreporter.write_line(line)

    # -- a phase --------------------------------------------------------------------------------------

    def _phase(self, when: str) -> Wrapper[Any]:
        if self._policy.skip:
            return (yield)
        self.begin()
        try:
            result = yield
        except BaseException as error:
            text = self._charged(*self.end(error))
            if text is not None and self._item is not None and not isinstance(error, pytest.skip.Exception):
                self._item.add_report_section(when, "nanscope", text)
            raise
        text = self._charged(*self.end())
        if text is not None:
            if getattr(self._item, "_excinfo", None) and self._item is not None:  # unittest keeps its own
                self._item.add_report_section(when, "nanscope", text)
            else:
                pytest.fail(text, pytrace=False)
        return result

    def begin(self) -> None:
        """Watch, now or as soon as torch is imported."""
        if is_imported():
            self._begin_watch()
        else:
            self._import.arm()

    def _begin_watch(self) -> None:
        from nanscope.plugin.watch import Watch  # noqa: PLC0415 - loads torch, which is there by now

        self._watch = Watch(self.run_file, "trained" if self._keeps_all else "trouble")
        self._watch.begin()

    def end(self, error: BaseException | None = None) -> tuple[list[Sighting], list[Path]]:
        """Watch no more; what was not finite, and the run files of what was healthy."""
        self._import.disarm()
        watch, self._watch = self._watch, None
        return ([], []) if watch is None else watch.end(error)

    def _settled(self) -> str | None:
        """What was seen so far is charged to whom it happened; the watch goes on."""
        if self._watch is None:
            return None
        seen = self.end()
        text = self._charged(*seen)
        self.begin()
        return text

    def settle(self) -> None:
        """What was seen so far fails the test now; the watch goes on."""
        text = self._settled()
        if text is not None:
            pytest.fail(text, pytrace=False)

    def taken(self) -> list[Failure]:
        """What was seen since the watch went on, taken out of what is charged; the watch goes on."""
        from nanscope.plugin.failure import failure_of  # noqa: PLC0415 - loads h5py

        seen, healthy = self.end()
        self.begin()
        failures = [failure for each in seen if (failure := failure_of(each, Policy())) is not None]
        for path in [*healthy, *(sighting.path for sighting in seen)]:
            if path is not None:
                _remove(path)
        return failures

    def _charged(self, seen: list[Sighting], healthy: list[Path]) -> str | None:
        """The text of the failure; None if there is none. Files of what passes are removed."""
        if not seen and not healthy:
            return None
        failures = self.judge(seen, healthy)
        if not failures or self._item is None:
            return None
        from nanscope.plugin.message import message_of  # noqa: PLC0415 - loads numpy

        self._item.user_properties += properties(failures[0], self._config.rootpath)
        return message_of(failures, self._config.invocation_params.dir)

    def judge(self, seen: list[Sighting], healthy: list[Path]) -> list[Failure]:
        """What of it fails; the run files of the rest are removed."""
        from nanscope.plugin.failure import collapse_of, failure_of  # noqa: PLC0415 - loads h5py

        judged = [(sighting.path, failure_of(sighting, self._policy)) for sighting in seen]
        judged += [(path, collapse_of(path) if self._policy.collapse else None) for path in healthy]
        for path in (path for path, failure in judged if failure is None and path is not None):
            _remove(path)
        failures: dict[Any, Failure] = {}  # several models may tell of the same origin
        for failure in (failure for _, failure in judged if failure is not None):
            failures.setdefault((failure.headline, failure.location), failure)
        if any(failure.path for failure in failures.values()):
            _hide(self.folder)
        return list(failures.values())

    # -- a test ---------------------------------------------------------------------------------------

    @property
    def run_file(self) -> Path:
        """Of the test that runs; its name is that of no other test."""
        assert self._item is not None
        nodeid = self._item.nodeid
        words = re.sub(r"[^\w.-]+", "-", nodeid.rpartition("/")[2].replace(".py::", "-")).strip("-.")
        digest = hashlib.sha256(nodeid.encode(errors="replace")).hexdigest()[:8]
        return self.folder / f"{words[:LONGEST_NAME]}-{digest}.h5"

    @property
    def _keeps_all(self) -> bool:
        """Whether healthy trainings are of interest, too."""
        return self._policy.collapse or "nanscope" in getattr(self._item, "fixturenames", ())

    def _policy_of(self, item: pytest.Item) -> Policy:
        if not (self._everywhere or wants(item)):
            return Policy(skip=True)
        policy = self._default
        for marker in reversed(list(item.iter_markers("nanscope"))):  # the closest has the last word
            if marker.args:
                raise PolicyError(f"the marker nanscope takes keywords only, not {marker.args[0]!r}")
            policy = policy.but(marker.kwargs)
        if any(fnmatchcase(item.nodeid, pattern) for pattern in self._skipped):
            policy = policy.but({"skip": True})
        return policy


def _ini_arguments(config: pytest.Config) -> dict[str, Any]:
    """The options of the ini file that say something, as arguments of the marker."""
    given = {name: config.getini(f"nanscope_{name}") for name in ("allow", "collapse", "modules", "phases")}
    return {name: value for name, value in given.items() if value}


def _checked(make: Callable[[], T]) -> T:
    try:
        return make()
    except PolicyError as error:
        raise pytest.UsageError(str(error)) from None


def _remove(path: Path) -> None:
    """Remove a run file and its further parts."""
    for part in [path, *path.parent.glob(f"{path.stem}.part*{path.suffix}")]:
        part.unlink(missing_ok=True)


def _forget(path: Path) -> None:
    """Remove what an earlier run of the same test has left."""
    for old in path.parent.glob(f"{path.stem}*{path.suffix}"):
        old.unlink(missing_ok=True)


def _hide(folder: Path) -> None:
    """Keep run files out of the user's commits, as pytest does with its cache."""
    ignore = folder / ".gitignore"
    if folder.is_dir() and not ignore.exists():
        ignore.write_text("*\n", encoding="utf-8")
