"""Remedies, proved: what is called good prevented the fault on the very steps that broke."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam

import nanscope
from nanscope.recording.rewind import memory
from nanscope.run import Run
from tests.rewind.loops import Data, batches, net, only, recorded, squares, train


@pytest.fixture(autouse=True)
def snapshots_at_the_start_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is executed again begins at step 0, however fast the machine is."""
    monkeypatch.setattr(memory, "SHARE", 1e9)


def outcomes(run: Run) -> dict[str, str]:
    """By remedy, whether it prevented the fault."""
    return {each["id"]: each["outcome"] for each in only(run, "remedies")["tried"]}


def tried(run: Run, name: str) -> Data:
    """What came of one remedy."""
    return next(each for each in only(run, "remedies")["tried"] if each["id"] == name)


class Bowl(nn.Module):
    """A quadratic whose steepest direction has curvature `sharp`."""

    def __init__(self, sharp: float) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.tensor([1.0, 1.0]))
        self.register_buffer("curvature", torch.tensor([1.0, sharp]))

    def forward(self, x: Tensor) -> Tensor:
        """A single number, whatever `x` is."""
        return (0.5 * self.curvature * self.at**2).sum() + 0.0 * x.sum()


def test_the_largest_learning_rate_that_survives(tmp_path: Path) -> None:
    """On a quadratic that is 2 / curvature: what is found is below it, but not by far."""
    model = Bowl(10.0)
    lr = 1.0  # five times too large: each step multiplies the distance by -9
    optimizer = SGD(model.parameters(), lr=lr)
    run = recorded(
        tmp_path / "run.h5", model, lambda out, _: out, batches(50), optimizer, verify_remedies=True
    )
    lower = tried(run, "lower-learning-rate")
    assert lower["outcome"] == "prevented"
    factor = float(lower["change"].removeprefix("lr=").split(",")[0]) / lr
    assert 0.14 <= factor <= 0.2
    assert lower["steps"] == only(run, "remedies")["window"][1] + 1
    sharp = only(run, "sharpness")
    assert sharp["sharpness"] == pytest.approx(10.0, rel=1e-3)
    assert (sharp["lr"], sharp["threshold"]) == (lr, pytest.approx(2.0))
    cause = nanscope.diagnose(run).causes[0]
    assert cause.id == "learning-rate-divergence"
    assert "this is the proof" in cause.evidence[0]


def test_momentum_moves_the_limit_of_the_sharpness(tmp_path: Path) -> None:
    """With momentum m the limit is 2 (1 + m) / lr."""
    model = Bowl(10.0)
    optimizer = SGD(model.parameters(), lr=1.0, momentum=0.5)
    run = recorded(tmp_path / "run.h5", model, lambda out, _: out, batches(60), optimizer)
    assert only(run, "sharpness")["threshold"] == pytest.approx(3.0)


def test_a_logarithm_of_zero_is_prevented_by_its_safe_form(tmp_path: Path) -> None:
    """Not by a lower rate: logits that one sample spreads over thousands are not of its doing."""
    data = batches(6)
    data[4][0][5] = 1e5
    run = recorded(tmp_path / "run.h5", net()[0:1], log_of_logits, data, verify_remedies=True)
    found = outcomes(run)
    assert only(run, "origin")["op"] == "log"
    assert found["safe-rewrite"] == "prevented"
    assert found["lower-learning-rate"] == "not-prevented"
    assert found["skip-sample"] == "prevented"
    assert tried(run, "skip-sample")["change"] == "leave out row 5"
    assert only(run, "remedies")["window"] == [0, 4]


def log_of_logits(output: Tensor, _y: Tensor) -> Tensor:
    """Logarithm of a softmax of whatever comes."""
    return -torch.log(output.softmax(1)).mean()


def test_a_negative_sample(tmp_path: Path) -> None:
    """Leaving it out helps; leaving another out does not, nor does clipping."""
    data = batches(4)
    data[2][1][3] = -5.0

    def loss(output: Tensor, y: Tensor) -> Tensor:
        return squares(output, torch.log(y + 0.1))

    run = recorded(tmp_path / "run.h5", net(), loss, data, verify_remedies=True)
    assert only(run, "origin")["samples"] == [3]
    found = outcomes(run)
    assert (found["skip-sample"], found["clip-gradients"]) == ("prevented", "not-prevented")
    assert found["safe-rewrite"] == "prevented"


def test_an_eps_of_zero(tmp_path: Path) -> None:
    """A larger one in Adam prevents zero by zero."""
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].bias.fill_(-100.0)  # dead: its gradient is exactly zero
    optimizer = Adam(model.parameters(), lr=0.01, eps=0.0)
    run = recorded(tmp_path / "run.h5", model, squares, batches(3), optimizer, verify_remedies=True)
    origin = only(run, "origin")
    assert (origin["step"], origin["phase"], origin["optimizer"]) == (0, "update", "Adam")
    assert outcomes(run)["larger-eps"] == "prevented"
    assert nanscope.diagnose(run).causes[0].id == "optimizer-update"


def test_a_healthy_run_tries_nothing(tmp_path: Path) -> None:
    """No event of any kind."""
    run = recorded(tmp_path / "run.h5", net(), squares, batches(10), verify_remedies=True)
    for kind in ("origin", "remedies", "sharpness", "no-rewind", "not-reproduced"):
        assert run.events_of(kind) == ()


@pytest.mark.parametrize("verify", [False, True])
def test_the_training_goes_on_as_if_nothing_had_been_tried(tmp_path: Path, verify: bool) -> None:
    """Bit for bit, with noise drawn in every step, past a step that broke and was skipped by the user."""
    ends = []
    for is_watched in (False, True):
        model, data = net(nn.Dropout(0.3)), batches(12)
        data[5][0][2] = 1e30
        optimizer = Adam(model.parameters(), lr=0.01)
        torch.manual_seed(3)
        if is_watched:
            with nanscope.record(model, optimizer, tmp_path / "run.h5", verify_remedies=verify):
                skip_broken(model, optimizer, data)
        else:
            skip_broken(model, optimizer, data)
        states = [t for s in optimizer.state.values() for t in s.values()]
        ends.append([*model.parameters(), *states, torch.get_rng_state()])
    assert nanscope.open_run(tmp_path / "run.h5").events_of("origin")
    assert bool(nanscope.open_run(tmp_path / "run.h5").events_of("remedies")) is verify
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def skip_broken(model: nn.Module, optimizer: Adam, data: list[tuple[Tensor, Tensor]]) -> None:
    """A loop that leaves the update out where a gradient is not finite."""
    for x, y in data:
        optimizer.zero_grad()
        squares(model(x).exp().exp(), y * (x[:, :1] * x[:, :1])).backward()
        if all(math.isfinite(float(p.grad.sum())) for p in model.parameters()):
            optimizer.step()


def test_remedies_as_they_are_diagnosed(tmp_path: Path) -> None:
    """What helped comes first, in the words of what was tried; the rest is untried or did not help."""
    data = batches(6)
    data[4][0][5] = 1e5
    path = tmp_path / "run.h5"
    model = net()[0:1]
    optimizer = SGD(model.parameters(), lr=0.05)
    with nanscope.record(model, optimizer, path, verify_remedies=True):
        train(model, optimizer, log_of_logits, data)
    remedies = nanscope.diagnose(path).remedies
    helped = [remedy.id for remedy in remedies if remedy.outcome == "prevented"]
    assert helped == [remedy.id for remedy in remedies][: len(helped)]
    assert set(helped) == {"safe-rewrite", "skip-sample"}
    assert all(remedy.steps == 5 for remedy in remedies if remedy.outcome != "untried")
