"""The example does what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plugin.running import PLUGIN, QUIET, text_of

pytest_plugins = "pytester"

EXAMPLE = Path(__file__).parents[2] / "examples" / "pytest_plugin" / "test_training.py"


def test_the_example(pytester: pytest.Pytester) -> None:
    """One test fails, by the logarithm in its model and on that line; without the option all pass."""
    source = EXAMPLE.read_text(encoding="utf-8")
    pytester.makepyfile(test_it=source)
    result = pytester.runpytest_inprocess(*PLUGIN, *QUIET, "--nanscope")
    result.assert_outcomes(passed=4, failed=1)
    line = 1 + next(i for i, text in enumerate(source.splitlines()) if "torch.log(" in text)
    told = text_of(result, "test_naive_on_large_inputs")
    assert told[0].startswith("nanscope: `log` gave -inf (step ")
    assert f"test_it.py:{line} in forward" in told[1]
