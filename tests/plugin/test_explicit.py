"""The fixture `nanscope`: watch by hand."""

from __future__ import annotations

import pytest

from tests.plugin.running import kept, run, text_of

pytest_plugins = "pytester"

SOURCE = """
def test_expected(nanscope):
    with nanscope.expect_nonfinite(cause="log-of-zero"): fit()
def test_any_cause(nanscope):
    with nanscope.expect_nonfinite(): fit()
def test_other_cause(nanscope):
    with nanscope.expect_nonfinite(cause="exp-overflow"): fit()
def test_finite(nanscope):
    with nanscope.expect_nonfinite(): fit(bad=None)
def test_before(nanscope):
    fit()
    with nanscope.expect_nonfinite(): fit()
def test_after(nanscope):
    with nanscope.expect_nonfinite(): fit()
    fit()
def test_within(nanscope):
    with nanscope.expect_nonfinite(): 1 / 0
def test_misspelt(nanscope):
    with nanscope.expect_nonfinite(cause="log-of-zeroo"): fit()
"""


def test_expecting_needs_no_option(pytester: pytest.Pytester) -> None:
    """Who takes the fixture is watched."""
    run(pytester, SOURCE, "-k", "expected or finite", watched=False).assert_outcomes(
        passed=1, failed=1, deselected=6
    )


def test_expecting(pytester: pytest.Pytester) -> None:
    """What is expected is no failure; what is not, before and after the block, and what does not come, is."""
    result = run(pytester, SOURCE)
    result.assert_outcomes(passed=2, failed=6)
    told = {name: text_of(result, name)[0] for name in ("test_other_cause", "test_finite")}
    assert told["test_finite"] == "nanscope: everything in the block was finite"
    assert told["test_other_cause"].startswith("nanscope: expected exp-overflow, found log-of-zero: `log`")
    result.stdout.fnmatch_lines(["FAILED *test_within - ZeroDivisionError*"])
    result.stdout.fnmatch_lines(["*UsageError: there is no cause log-of-zeroo: did you mean log-of-zero*"])
    assert kept(pytester) == ["test_it-test_after.h5", "test_it-test_before.h5"]


def test_recording(pytester: pytest.Pytester) -> None:
    """The diagnosis of a block is there to assert on, and no failure by itself."""
    source = """
def train(nanscope, bad, **options):
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with nanscope.record(model, optimizer, **options) as recorder:
        for step in range(3):
            optimizer.zero_grad()
            x = torch.ones(2, 3) * (1e5 if step == bad else 1)
            torch.log(model(x)).mean().neg().backward()
            optimizer.step()
    assert recorder.steps == 3
    return nanscope
def test_good(nanscope):
    (diagnosis,) = train(nanscope, None).diagnoses
    assert diagnosis.verdict == "healthy"
    assert not nanscope.findings
def test_bad(nanscope, tmp_path):
    train(nanscope, 1, path=tmp_path / "mine.h5")
    assert nanscope.diagnoses[0].origin.op == "log"
    assert "NS101" in [finding.rule for finding in nanscope.findings]
    assert (tmp_path / "mine.h5").exists()
def test_both(nanscope):
    train(nanscope, 1)
    fit()
"""
    result = run(pytester, source)
    result.assert_outcomes(passed=2, failed=1)
    assert kept(pytester) == ["test_it-test_both.h5"]
