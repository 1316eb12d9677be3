"""Programs that are less ordinary: composite functions, guards of the user's own, two optimizers."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam

import nanscope
from nanscope.values import Diagnosis, Verdict
from tests.rewind.loops import batches, net, only, recorded, squares, train

BAD = 3


class Flow(nn.Module):
    """A linear flow whose determinant is negative from the first."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.diag(torch.tensor([-1.0, 2.0, 3.0])))

    def forward(self, x: Tensor) -> Tensor:
        """Energy per sample, shape (batch, 1)."""
        return (x @ self.weight).square().sum(1, keepdim=True) - torch.logdet(self.weight)


def test_a_function_of_several_operations(tmp_path: Path) -> None:
    """`logdet` picks NaN by a `where` of its own: it is told as what the user called."""
    run = recorded(tmp_path / "run.h5", Flow(), lambda out, _: out.mean(), batches(2))
    event = only(run, "origin")
    assert (event["op"], event["call"]) == ("logdet", "torch.logdet")
    cause = nanscope.diagnose(run).causes[0]
    assert (cause.id, cause.why) == (
        "domain-error",
        "`logdet` received a matrix whose determinant is negative",
    )


def test_a_where_of_the_users_own(tmp_path: Path) -> None:
    """The near miss: a constant that is picked is told as `where`."""
    data = batches(5)
    data[BAD][0][2, 0] = 50.0

    def loss(output: Tensor, y: Tensor) -> Tensor:
        return torch.where(output.abs() > 3, torch.nan, output - y).square().mean()

    run = recorded(tmp_path / "run.h5", net()[:1], lambda out, y: loss(out[:, :2], y), data)
    event = only(run, "origin")
    assert (event["op"], event["call"], event["samples"]) == ("where", "torch.where", [2])


def guarded(path: Path, *, skips: bool) -> Diagnosis:
    """A loop with one broken batch, that leaves the update out, or does not."""
    model, data = net(), batches(12)
    data[BAD][1][5] = -1.0
    optimizer = SGD(model.parameters(), lr=0.05)
    with nanscope.record(model, optimizer, path):
        for x, y in data:
            optimizer.zero_grad()
            (model(x) - torch.log(y + 0.1)).square().mean().backward()
            norm = sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None)
            if math.isfinite(norm) or not skips:
                optimizer.step()
    return nanscope.diagnose(path)


def test_a_guard_of_the_users_own(tmp_path: Path) -> None:
    """The program made up for it: told, with its origin, but nothing is blamed; without the guard it is."""
    answer = guarded(tmp_path / "guarded.h5", skips=True)
    assert (answer.verdict, answer.causes) == (Verdict.SUSPICIOUS, ())
    assert answer.origin is not None
    assert (answer.origin.step, answer.origin.op, answer.origin.samples) == (BAD, "log", (5,))
    assert "left out the update of step 3" in answer.summary
    open_to_it = guarded(tmp_path / "open.h5", skips=False)
    assert open_to_it.verdict is Verdict.DIVERGED
    assert open_to_it.causes[0].id == "domain-error"


def test_the_optimizer_that_updates_the_broken_parameter(tmp_path: Path) -> None:
    """Of two, its rate and its kind are told: an infinite rate is no overflow."""
    model, data = net(), batches(6)
    first = Adam(model[0].parameters(), lr=0.01)
    second = SGD(model[2].parameters(), lr=0.05)
    with nanscope.record(model, [first, second], tmp_path / "run.h5"):
        for step, (x, y) in enumerate(data):
            second.param_groups[0]["lr"] = math.inf if step == BAD else 0.05
            model.zero_grad()
            squares(model(x), y).backward()
            first.step()
            second.step()
    run = nanscope.open_run(tmp_path / "run.h5")
    event = only(run, "origin")
    assert (event["step"], event["phase"]) == (BAD, "update")
    assert (event["optimizer"], event["in_update_of"], event["lr"]) == ("SGD", "SGD", "inf")
    causes = nanscope.diagnose(run).causes
    assert [cause.id for cause in causes] == ["bad-learning-rate", "optimizer-update"]


def test_clipping_is_no_update_of_the_optimizer(tmp_path: Path) -> None:
    """What the user's own code does between the backward pass and the update is its own."""
    model, data = net(), batches(5)
    optimizer = SGD(model.parameters(), lr=0.05)
    with nanscope.record(model, optimizer, tmp_path / "run.h5"):
        train(model, optimizer, squares, data[:BAD])
        optimizer.zero_grad()
        (0.0 * squares(model(data[BAD][0]), data[BAD][1])).backward()
        for parameter in model.parameters():
            parameter.grad /= parameter.grad.norm()
        optimizer.step()
    run = nanscope.open_run(tmp_path / "run.h5")
    event = only(run, "origin")
    assert (event["phase"], event["op"], event["in_update_of"]) == ("update", "div", None)
    assert nanscope.diagnose(run).causes[0].id == "division-by-zero"
