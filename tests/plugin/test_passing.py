"""What is meant, and passes: the plugin does not cry wolf."""

from __future__ import annotations

import pytest

from tests.plugin.running import kept, run, text_of

pytest_plugins = "pytester"

HEALTHY = {
    "masks of infinity in attention": """
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1, batch_first=True)
    optimizer = torch.optim.Adam(layer.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        causal = torch.full((5, 5), -torch.inf).triu(1)
        layer(torch.randn(2, 5, 4), src_mask=causal, is_causal=True).sum().backward()
        optimizer.step()
""",
    "masked logits that are sampled from": """
    class Policy(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3, 4)
        def forward(self, x, allowed):
            return self.head(x).masked_fill(~allowed, -torch.inf)
    with torch.no_grad():
        Policy()(torch.randn(2, 3), torch.tensor([True, False, True, True])).argmax(1)
""",
    "gaps that are filled": """
    model, optimizer = Net(), None
    x = torch.tensor([[1.0, float("nan"), 2.0]])
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(torch.nan_to_num(x)).sum().backward()
    optimizer.step()
""",
    "NaN that reaches nothing": """
    bad = torch.zeros(3) / 0
    assert bad.isnan().all()
    torch.log(torch.zeros(2)).clamp_min(-10)
""",
    "NaN that the test hands to a module": """
    assert nn.Linear(2, 2)(torch.full((1, 2), float("nan"))).isnan().all()
    nn.LogSoftmax(0)(torch.tensor([0.0, -torch.inf]))
""",
    "targets with gaps": """
    model = Net()
    target = torch.tensor([[0.1, float("nan"), 0.2, 0.3]])
    output = model(torch.ones(1, 3))
    known = ~target.isnan()
    F.mse_loss(output[known], target[known]).backward()
""",
    "the first steps of a gradient scaler": """
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    for _ in range(20):
        optimizer.zero_grad()
        output = model(torch.ones(4, 2) * 64)
        scaler.scale((output - output.detach()).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
""",
    "undefined gradients that gradcheck tries": """
    x = torch.randn(3, 2, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(nn.Linear(2, 2).double(), (x,))
""",
    "a training that is given up": """
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x in (torch.ones(1, 3), torch.full((1, 3), torch.inf)):
        loss = model(x).sum()
        if not loss.isfinite():
            break
        loss.backward()
        optimizer.step()
""",
    "huge but finite": """
    model = nn.Linear(2, 2)
    (model(torch.full((1, 2), 1e30)) * 1e-30).sum().backward()
    with torch.no_grad():
        nn.Identity()(torch.full((10,), 3e38))
""",
    "a mean of nothing that counts as a metric": """
    class Average(nn.Module):
        def __init__(self):
            super().__init__()
            self.total = self.number = 0.0
        def update(self, value): self.total += value; self.number += 1
        def compute(self): return torch.tensor(self.total) / self.number
        def forward(self, value=None): return self.compute()
    assert Average()().isnan()
""",
}


def test_healthy(pytester: pytest.Pytester) -> None:
    """Each passes, nothing is kept, and nothing is warned of."""
    tests = [f"def test_{name.replace(' ', '_')}():\n{text}" for name, text in HEALTHY.items()]
    result = run(pytester, "\n".join(tests), "-W", "error")
    result.assert_outcomes(passed=len(HEALTHY))
    assert kept(pytester) == []


def test_what_is_allowed(pytester: pytest.Pytester) -> None:
    """By the marker, of one kind, place or phase, of a whole class; the closest has the last word."""
    source = """
@pytest.mark.nanscope(allow=("inf", "nan"))
def test_both(): fit()
@pytest.mark.nanscope(skip=True)
def test_skip(): fit()
@pytest.mark.nanscope(phases="update, backward")
def test_other_phase(): fit()
@pytest.mark.nanscope(modules="body.*")
def test_other_module(): fit()
@pytest.mark.nanscope(allow="inf")
class TestClass:
    def test_inf(self):
        with torch.no_grad(): nn.Sequential(Log())(torch.zeros(3))
    def test_nan(self): fit()
    @pytest.mark.nanscope(allow=())
    def test_closest(self):
        with torch.no_grad(): nn.Sequential(Log())(torch.zeros(3))
class Log(nn.Module):
    def forward(self, x): return torch.log(x)
"""
    result = run(pytester, source)
    result.assert_outcomes(passed=5, failed=2)
    result.stdout.fnmatch_lines(["FAILED *test_nan*", "FAILED *test_closest*"])
    assert kept(pytester) == ["test_it-TestClass-test_closest.h5", "test_it-TestClass-test_nan.h5"]


@pytest.mark.parametrize(
    "option",
    ["nanscope_allow = nan inf", "nanscope_phases = update", "nanscope_modules = else.*",
     "nanscope_skip = *::test_bad"],
)  # fmt: skip
def test_the_ini_file_allows(pytester: pytest.Pytester, option: str) -> None:
    """The same words, for every test."""
    pytester.makeini(f"[pytest]\nnanscope = true\n{option}\n")
    run(pytester, "def test_bad(): fit()", watched=False).assert_outcomes(passed=1)


def test_the_marker_watches_one_test(pytester: pytest.Pytester) -> None:
    """Without the option nothing else is watched, and without a marker nothing at all."""
    source = "@pytest.mark.nanscope\ndef test_bad(): fit()\ndef test_unwatched(): fit()\n"
    run(pytester, source, watched=False).assert_outcomes(failed=1, passed=1)
    run(pytester, "def test_unwatched(): fit()\n", watched=False).assert_outcomes(passed=1)


SLIPS = {
    "allow='infinity'": "say any of nan, inf",
    "alow='inf'": "it takes allow, collapse, modules, phases, skip",
    "phases=3": "takes words here, not 3",
    "collapse='yes'": "True or False",
    "'inf'": "keywords only",
}


def test_a_slip_in_the_marker(pytester: pytest.Pytester) -> None:
    """It is an error that says what may be written."""
    tests = [f"@pytest.mark.nanscope({marker})\ndef test_{i}(): pass" for i, marker in enumerate(SLIPS)]
    result = run(pytester, "\n".join(tests))
    result.assert_outcomes(errors=len(SLIPS))
    for number, hint in enumerate(SLIPS.values()):
        assert hint in "\n".join(text_of(result, f"test_{number}"))


def test_collapse(pytester: pytest.Pytester) -> None:
    """A training that ends with one answer for everything fails where the marker asks for it."""
    source = """
def fit():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(120):
        x, y = torch.randn(64, 4), torch.randint(0, 3, (64,))
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        if step == 20:
            model[0].bias.grad.fill_(1e3)
        optimizer.step()
@pytest.mark.nanscope(collapse=True)
def test_asked(): fit()
def test_unasked(): fit()
@pytest.mark.nanscope(collapse=True)
def test_healthy():
    model = nn.Linear(3, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(120):
        y = torch.randint(0, 3, (64,))
        optimizer.zero_grad()
        F.cross_entropy(model(F.one_hot(y, 3).float()), y).backward()
        optimizer.step()
"""
    result = run(pytester, source)
    result.assert_outcomes(failed=1, passed=2)
    result.stdout.fnmatch_lines(["FAILED *test_asked*"])
