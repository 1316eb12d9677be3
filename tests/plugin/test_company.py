"""The plugin in company: fixtures, unittest, xdist, randomly, reports, and where it is not wanted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.plugin.running import PLUGIN, PRELUDE, QUIET, kept, line_of, run, text_of

pytest_plugins = "pytester"


def test_a_class_scoped_fixture_that_trains(pytester: pytest.Pytester) -> None:
    """The fixture is charged, in every test that takes it and in no other."""
    source = """
@pytest.fixture(scope="class")
def trained(): return fit()
class TestIt:
    def test_first(self, trained): pass
    def test_second(self, trained): trained(torch.ones(1, 3))
    def test_third(self): pass
"""
    result = run(pytester, source)
    result.assert_outcomes(errors=2, passed=1)
    for test in ("TestIt.test_first", "TestIt.test_second"):
        assert text_of(result, test)[0].startswith("in the fixture 'trained': nanscope: `log` gave -inf")


def test_a_shared_model_is_charged_once(pytester: pytest.Pytester) -> None:
    """What an earlier test has broken is its own failure, not that of those who come after."""
    source = """
@pytest.fixture(scope="module")
def model(): return Net()
def test_before(model): fit(model, bad=None)
def test_guilty(model): fit(model)
def test_after(model):
    with torch.no_grad(): model(torch.ones(1, 3))
    fit(model, bad=None)
"""
    result = run(pytester, source)
    result.assert_outcomes(failed=1, passed=2)
    result.stdout.fnmatch_lines(["FAILED *test_guilty*"])


def test_teardown_is_watched(pytester: pytest.Pytester) -> None:
    """What runs after the yield of a fixture is an error of the teardown."""
    source = "@pytest.fixture\ndef late():\n    yield\n    fit()\ndef test_it(late): pass\n"
    result = run(pytester, source)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_it*", "nanscope: `log` gave -inf*"])


def test_unittest(pytester: pytest.Pytester) -> None:
    """Classes of unittest: methods, setUp, and setUpClass, which is a fixture of its class."""
    source = """
import unittest
class TestMethods(unittest.TestCase):
    def test_bad(self): fit()
    def test_good(self): fit(bad=None)
    def test_own(self): self.assertTrue(fit().body.weight.isfinite().all())
class TestSetUp(unittest.TestCase):
    def setUp(self): fit()
    def test_bad(self): pass
class TestClassSetUp(unittest.TestCase):
    @classmethod
    def setUpClass(cls): fit()
    def test_bad(self): pass
"""
    result = run(pytester, source)
    result.assert_outcomes(failed=3, passed=1, errors=1)
    assert text_of(result, "TestMethods.test_bad")[0] == "nanscope: `log` gave -inf (step 2, loss)"
    own = "\n".join(text_of(result, "TestMethods.test_own"))
    assert "AssertionError" in own
    assert "setUpClass" in text_of(result, "TestClassSetUp.test_bad")[0]


def test_parameters_have_their_own_files(pytester: pytest.Pytester) -> None:
    """Whatever is in the id of a case, its run file has a name of its own that a shell can take."""
    source = """
@pytest.mark.parametrize("word", ["a/b", "a b", "a:b", "x" * 300, "\\u5c42", "good"])
def test_case(word): fit(bad=None if word == "good" else 2)
"""
    result = run(pytester, source)
    result.assert_outcomes(failed=5, passed=1)
    names = [path.name for path in (pytester.path / ".nanscope").glob("*.h5")]
    assert len(names) == 5
    assert all(len(name.encode()) < 200 and not set(name) & set(" :/$'\"") for name in names)


def test_stopping_and_coming_back(pytester: pytest.Pytester) -> None:
    """-x stops at the failure, --lf runs it again, as with any assert."""
    source = "def test_a(): fit(bad=None)\ndef test_b(): fit()\ndef test_c(): fit()\n"
    pytester.makepyfile(test_it=PRELUDE + source)
    options = [*PLUGIN, "-p", "no:randomly", "--nanscope"]
    pytester.runpytest_inprocess(*options, "-x").assert_outcomes(passed=1, failed=1)
    pytester.runpytest_inprocess(*options, "--lf").assert_outcomes(failed=1)


def test_junit_properties(pytester: pytest.Pytester) -> None:
    """The XML holds what was found as properties of the test."""
    run(pytester, "def test_bad(): fit()\ndef test_good(): pass", "--junitxml", "out.xml")
    cases = {case.get("name"): case for case in ET.parse(pytester.path / "out.xml").iter("testcase")}
    found = {each.get("name"): each.get("value") for each in cases["test_bad"].iter("property")}
    assert found["nanscope.cause"] == "log-of-zero"
    assert found["nanscope.line"] == str(line_of("torch.log"))
    assert found["nanscope.file"] == "test_it.py"
    assert (found["nanscope.step"], found["nanscope.phase"]) == ("2", "loss")
    assert (pytester.path / str(found["nanscope.run"])).is_file()
    assert not list(cases["test_good"].iter("property"))


def test_annotations_on_github(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line per failure in GitHub's own form, and only there."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    source = "def test_bad(): fit()\ndef test_other(): assert False\n"
    lines = [line for line in run(pytester, source).outlines if line.startswith("::")]
    told = (
        f"::error file=test_it.py,line={line_of('torch.log')},title=nanscope::`log` gave -inf (step 2, loss)"
    )
    assert lines == [f"{told} (log-of-zero) in test_it.py::test_bad"]
    monkeypatch.delenv("GITHUB_ACTIONS")
    assert not any(line.startswith("::") for line in run(pytester, source).outlines)


def test_workers_of_xdist(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """In another process, in random order, torch imported by a test: the annotations are the controller's."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    source = """
import pytest
def test_before(): pass
@pytest.mark.parametrize("bad", [2, None])
def test_case(bad):
    from program import fit
    fit(bad=bad)
def test_after():
    import torch
    assert torch.__spec__.loader.name == "torch"
"""
    pytester.makepyfile(test_it=source, program=PRELUDE)
    result = pytester.runpytest_subprocess(*PLUGIN, "--nanscope", "-n1", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=3, failed=1)
    assert kept(pytester) == ["test_it-test_case-2.h5"]
    assert sum(line.startswith("::error file=program.py") for line in result.outlines) == 1


LOADED = """
import json, sys
names = ("torch", "h5py", "numpy", "nanscope.plugin", "nanscope.recording", "rich", "click")
def pytest_unconfigure(config):
    open("loaded.json", "w").write(json.dumps([name for name in names if name in sys.modules]))
"""


def test_the_entry_point(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named as an installed package names it, it is there by itself, and is blocked by its name.

    Neither torch nor h5py nor numpy are loaded, on or off, as long as the tests do not import them.
    """
    about = pytester.mkdir("site") / "nanscope_here-0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: nanscope-here\nVersion: 0\n")
    (about / "entry_points.txt").write_text("[pytest11]\nnanscope = nanscope.pytest_plugin\n")
    monkeypatch.setenv("PYTHONPATH", str(about.parent), prepend=":")
    pytester.makeconftest(LOADED)
    pytester.makepyfile(test_it="def test_one(): pass\ndef test_two(): pass")
    for option, loaded in (("--nanscope", ["nanscope.plugin"]), ("-q", [])):
        pytester.runpytest_subprocess(*QUIET, option).assert_outcomes(passed=2)
        assert json.loads((pytester.path / "loaded.json").read_text()) == loaded
    blocked = pytester.runpytest_subprocess(*QUIET, "-p", "no:nanscope", "--nanscope")
    assert blocked.ret == pytest.ExitCode.USAGE_ERROR
    blocked.stderr.fnmatch_lines(["*unrecognized arguments: --nanscope*"])


def test_the_light_module_is_light() -> None:
    """Importing the entry point loads pytest and itself, nothing else of ours or anybody's."""
    program = (
        "import sys, pytest; before = set(sys.modules); import nanscope.pytest_plugin;"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["nanscope", "nanscope.pytest_plugin"]


def test_run_files_are_found_from_another_folder(pytester: pytest.Pytester) -> None:
    """A test that changes its directory leaves its run file where all are."""
    inner = pytester.path / "inner"
    inner.mkdir()
    run(pytester, f"import os\ndef test_bad():\n    os.chdir({str(inner)!r})\n    fit()\n")
    assert kept(pytester) == ["test_it-test_bad.h5"]
    assert not list(Path(inner).iterdir())
