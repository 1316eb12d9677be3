"""What makes a test fail, and what it then says."""

from __future__ import annotations

import pytest

import nanscope
from tests.plugin.running import kept, line_of, only_file, run, text_of

pytest_plugins = "pytester"


def test_a_message_like_a_good_assert(pytester: pytest.Pytester) -> None:
    """It names operation, line, operands, cause, rewrite and step, and how to replay the run."""
    result = run(pytester, "def test_bad(): fit()\ndef test_good(): fit(bad=None)")
    result.assert_outcomes(failed=1, passed=1)
    told = text_of(result, "test_bad")
    assert told[0] == "nanscope: `log` gave -inf (step 2, loss)"
    assert told[1].split() == ["at", f"test_it.py:{line_of('torch.log')}", "in", "fit"]
    assert told[2].strip().startswith("> loss = -torch.log(model(x)")
    text = "\n".join(told)
    for word in ("[5] float32", "result", "element", "log-of-zero", "softmax", "F.log_softmax(x, dim)"):
        assert word in text
    assert len(told) <= 25
    path = only_file(pytester)
    assert f"nanscope replay .nanscope/{path.name}" in text
    origin = nanscope.diagnose(path).origin
    assert origin is not None
    assert (origin.step, origin.op) == (2, "log")


def test_only_failures_keep_files(pytester: pytest.Pytester) -> None:
    """What passes leaves nothing, and a test that passes now removes what it left when it failed."""
    run(pytester, "def test_one(): fit()\ndef test_two(): fit()\ndef test_good(): fit(bad=None)")
    assert kept(pytester) == ["test_it-test_one.h5", "test_it-test_two.h5"]
    assert (pytester.path / ".nanscope" / ".gitignore").read_text() == "*\n"
    run(pytester, "def test_one(): fit()\ndef test_two(): fit(bad=None)")
    assert kept(pytester) == ["test_it-test_one.h5"]


def test_another_folder(pytester: pytest.Pytester) -> None:
    """The option says where, and so does the ini file."""
    run(pytester, "def test_bad(): fit()", "--nanscope-dir", "there/deep")
    assert kept(pytester, "there/deep") == ["test_it-test_bad.h5"]
    pytester.makeini("[pytest]\nnanscope_dir = ini-there\nnanscope = true")
    run(pytester, "def test_bad(): fit()", watched=False)
    assert kept(pytester, "ini-there") == ["test_it-test_bad.h5"]


BORN = {
    "loss": "F.mse_loss(Net()(torch.ones(2, 3)), torch.full((2, 4), float('inf'))).backward()",
    "backward": "x = Net()(torch.ones(2, 3)); (x - x).sqrt().sum().backward()",
    "update": """m = nn.Linear(2, 1); o = torch.optim.SGD(m.parameters(), lr=1e30)
    for _ in range(2): (m(torch.ones(1, 2)) * 1e20).sum().backward(); o.step()""",
    "update of the last step": """m = nn.Linear(2, 1); o = torch.optim.SGD(m.parameters(), lr=1.0)
    for k in range(30):
        o.param_groups[0]["lr"] = 1e38 if k == 29 else 1e-3
        o.zero_grad(); (m(torch.ones(1, 2)) * 100).sum().backward(); o.step()""",
    "forward": "with torch.no_grad(): nn.Sequential(nn.Linear(1, 1), Log())(torch.zeros(3, 1))",
    "forward in inference mode": "with torch.inference_mode(): Log()(torch.zeros(3))",
    "forward of a module without parameters": "Log()(torch.zeros(3))",
    "forward of a model that is not trained": "nn.Sequential(nn.Linear(1, 1), Log())(torch.zeros(3, 1))",
    "init": """m = nn.Linear(1, 1)
    with torch.no_grad(): m.weight.fill_(float('nan'))
    m(torch.ones(2, 1)).sum().backward()""",
}


def test_where_it_may_be_born(pytester: pytest.Pytester) -> None:
    """In a loss, a gradient, an update, or an output that belongs to no training."""
    log = "class Log(nn.Module):\n    def forward(self, x): return torch.log(x - x)\n"
    names = {where: f"test_{where.replace(' ', '_')}" for where in BORN}
    tests = [f"def {names[where]}():\n    {text}" for where, text in BORN.items()]
    result = run(pytester, log + "\n".join(tests))
    result.assert_outcomes(failed=len(BORN))
    for where, name in names.items():
        assert text_of(result, name)[0].endswith(f", {where.partition(' ')[0]})")
    assert len(kept(pytester)) == len(BORN)


def test_an_optimizers_state(pytester: pytest.Pytester) -> None:
    """A second moment that overflows freezes its weights for good, and no loss tells of it."""
    source = """
def test_bad():
    model = nn.Linear(1, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        (model(torch.ones(1, 1)) * 1e25).sum().backward()
        optimizer.step()
"""
    result = run(pytester, source)
    result.assert_outcomes(failed=1)
    assert "exp_avg_sq" in "\n".join(text_of(result, "test_bad"))


def test_parameters_of_no_module(pytester: pytest.Pytester) -> None:
    """Plain tensors that an optimizer steps are looked at around each update."""
    source = """
def test_bad():
    weight = torch.ones(2, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    for _ in range(4):
        optimizer.zero_grad()
        weight.log().sum().backward()
        with torch.no_grad(): weight.zero_()
        optimizer.step()
        with torch.no_grad(): weight.zero_()
def test_good():
    weight = torch.ones(2, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    weight.exp().sum().backward()
    optimizer.step()
"""
    result = run(pytester, source)
    result.assert_outcomes(failed=1, passed=1)
    assert text_of(result, "test_bad")[0].startswith(
        "nanscope: inf in a gradient of shape [2] that SGD steps"
    )


def test_several_models(pytester: pytest.Pytester) -> None:
    """Each has its own run file; the message is of the first and names the others."""
    source = "def test_bad():\n    fit(); fit(nn.Sequential(nn.Linear(3, 4), nn.Softmax(1)), bad=1)\n"
    result = run(pytester, source)
    told = text_of(result, "test_bad")
    assert told[-1].startswith("nanscope: also Sequential: `log`")
    assert kept(pytester) == ["test_it-test_bad-2.h5", "test_it-test_bad.h5"]


def test_the_same_model_made_again_and_again(pytester: pytest.Pytester) -> None:
    """Each has its own file, and that one has a number is nothing to warn of."""
    result = run(pytester, "def test_bad():\n    fit(); fit(bad=1)\n", "-W", "error")
    result.assert_outcomes(failed=1)
    assert text_of(result, "test_bad")[0] == "nanscope: `log` gave -inf (step 2, loss)"


def test_a_test_that_fails_by_itself(pytester: pytest.Pytester) -> None:
    """Its own assert is what is shown first; what was found stands below it."""
    result = run(
        pytester, "def test_bad():\n    model = fit()\n    assert model.body.weight.isfinite().all()"
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*assert*isfinite*", "*- Captured nanscope call -*", "nanscope: `log` gave -inf*"]
    )


def test_exceptions_and_skips_go_their_way(pytester: pytest.Pytester) -> None:
    """An expected failure stays expected, a skip a skip."""
    source = """
def test_skipped():
    fit()
    pytest.skip("no")
@pytest.mark.xfail(strict=True)
def test_expected():
    fit()
def test_raises():
    with pytest.raises(ZeroDivisionError):
        fit(bad=None)
        1 / 0
"""
    run(pytester, source).assert_outcomes(skipped=1, xfailed=1, passed=1)
