"""Programs that are less ordinary: composite functions, guards of the user's own, two optimizers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adam
from torch.overrides import _get_current_function_mode_stack

import nanscope
from nanscope.values import Diagnosis, Verdict
from tests.rewind.loops import batches, net, only, recorded, squares, train
from tests.watching import line_of

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


class Parts(nn.Module):
    """An encoder and a head that the loop calls one by one; the root has no forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.2), nn.Sigmoid())
        self.head = nn.Linear(4, 2)


@pytest.mark.parametrize("bad", [0, BAD])
def test_a_root_that_is_never_called(tmp_path: Path, bad: int) -> None:
    """Its modules' calls are heard in its place, in every step, with what is between them."""
    torch.manual_seed(0)
    model, data = Parts(), batches(6)
    data[bad][0][4] = -1e4
    with torch.no_grad():
        model.body[0].weight.abs_()
    optimizer = SGD(model.parameters(), lr=0.01)
    with nanscope.record(model, optimizer, tmp_path / "run.h5"):
        for x, y in data:
            hidden = torch.log(model.body(x))
            optimizer.zero_grad()
            squares(model.head(hidden), y).backward()
            optimizer.step()
    event = only(nanscope.open_run(tmp_path / "run.h5"), "origin")
    assert (event["step"], event["op"], event["phase"]) == (bad, "log", "loss")
    assert event["samples"] == [4]
    assert event["location"]["line"] == line_of(test_a_root_that_is_never_called, "torch.log(model")


def test_parts_and_the_root(tmp_path: Path) -> None:
    """Parts are called before the training, one raises: the calls of the root are heard still."""
    model, data = net(), batches(6)
    data[BAD][1][2] = 1e30
    optimizer = SGD(model.parameters(), lr=0.01)
    with nanscope.record(model, optimizer, tmp_path / "run.h5"):
        model[0](data[0][0])
        with pytest.raises(RuntimeError):
            model[0](torch.ones(1, 17))
        train(model, optimizer, squares, data)
    event = only(nanscope.open_run(tmp_path / "run.h5"), "origin")
    assert (event["step"], event["op"], event["samples"]) == (BAD, "pow", [2])


@pytest.mark.parametrize("bad", [0, BAD])
def test_a_penalty_before_the_forward_pass(tmp_path: Path, bad: int) -> None:
    """It is heard from the first step on."""
    model, data = net(), batches(6)
    optimizer = SGD(model.parameters(), lr=0.01)
    with nanscope.record(model, optimizer, tmp_path / "run.h5"):
        for step, batch in enumerate(data):
            if step == bad:
                torch.nn.init.zeros_(model[2].bias)
            penalty = sum(p.square().sum().sqrt() for p in model.parameters())
            optimizer.zero_grad()
            (squares(model(batch[0]), batch[1]) + penalty).backward()
            optimizer.step()
    event = only(nanscope.open_run(tmp_path / "run.h5"), "origin")
    assert (event["step"], event["phase"], event["op"]) == (bad, "backward", "sqrt")


def test_what_is_done_before_the_block(tmp_path: Path) -> None:
    """A penalty that was made before anybody listened: that is said, and no hardware is suspected."""
    model, (x, y) = net(), batches(1)[0]
    torch.nn.init.zeros_(model[2].bias)
    optimizer = SGD(model.parameters(), lr=0.01)
    penalty = sum(p.square().sum().sqrt() for p in model.parameters())
    with nanscope.record(model, optimizer, tmp_path / "run.h5"):
        (squares(model(x), y) + penalty).backward()
        optimizer.step()
    run = nanscope.open_run(tmp_path / "run.h5")
    assert "before the model was called" in only(run, "no-rewind")["why"]
    assert nanscope.diagnose(run).causes == ()


def test_an_evaluation_before_the_training(tmp_path: Path) -> None:
    """It runs without a mode of ours, and so does what follows it."""
    model, (x, y) = net(), batches(1)[0]
    optimizer = SGD(model.parameters(), lr=0.01)
    modes: list[int] = []
    with nanscope.record(model, optimizer, tmp_path / "run.h5"):
        model.register_forward_pre_hook(lambda *_: modes.append(len(_get_current_function_mode_stack())))
        with torch.no_grad():
            model(x)
            model(x)
        train(model, optimizer, squares, [(x, y)])
    assert modes[1:] == [0, 0]


def test_data_that_is_made_ready_is_not_kept(tmp_path: Path) -> None:
    """What is computed before the first call is let go of, but for what a gradient can be asked of."""
    model, data = net(), batches(2)
    optimizer = SGD(model.parameters(), lr=0.01)
    with nanscope.record(model, optimizer, tmp_path / "run.h5") as recorder:
        prepared = [(x - x.mean(0)) / x.std(0) for x, _ in data for _ in range(50)]
        assert recorder._rewinder._listener.events == []
        doubled = model[0].weight * 2
        assert len(recorder._rewinder._listener.events) == 1
        assert len(_get_current_function_mode_stack()) == 1
        model.register_forward_pre_hook(lambda *_: modes.append(len(_get_current_function_mode_stack())))
        modes: list[int] = []
        squares(model(prepared[0]), data[0][1] * doubled.detach().mean()).backward()
        optimizer.step()
        assert modes == [0]
    assert _get_current_function_mode_stack() == []


@pytest.mark.parametrize("in_loss", [True, False])
def test_an_optimizer_that_calls_the_model_itself(tmp_path: Path, in_loss: bool) -> None:
    """LBFGS: a loss that breaks has its origin, and so has an update that does."""
    model, data = net(), batches(6)
    if in_loss:
        data[BAD][1][2] = -1.0
    optimizer = LBFGS(model.parameters(), lr=0.1, max_iter=4)
    with nanscope.record(model, optimizer, tmp_path / "run.h5"):
        for step, (x, y) in enumerate(data):
            optimizer.param_groups[0]["lr"] = math.inf if step == BAD and not in_loss else 0.1

            def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
                optimizer.zero_grad()
                loss = (model(x) - torch.log(y + 0.1)).square().mean()
                loss.backward()
                return loss

            optimizer.step(closure)
    run = nanscope.open_run(tmp_path / "run.h5")
    event = only(run, "origin")
    if in_loss:
        assert (event["step"], event["op"], event["samples"]) == (BAD, "log", [2])
    else:
        assert (event["step"], event["phase"], event["op"]) == (BAD, "update", "add")
        assert nanscope.diagnose(run).causes[0].id == "bad-learning-rate"


def test_two_models_in_turn(tmp_path: Path) -> None:
    """Each with its optimizer, as in a GAN: the second is called before the step of the first is over."""
    model, data = nn.ModuleDict({"one": net(), "other": net()}), batches(8)
    data[BAD][1][5] = -1.0
    optimizers = SGD(model["one"].parameters(), lr=0.05), SGD(model["other"].parameters(), lr=0.05)
    with nanscope.record(model, optimizers, tmp_path / "run.h5"):
        for x, y in data:
            optimizers[0].zero_grad()
            (model["one"](x) - y).square().mean().backward()
            optimizers[0].step()
            optimizers[1].zero_grad()
            (model["other"](x) - torch.log(y + 0.1)).square().mean().backward()
            optimizers[1].step()
    event = only(nanscope.open_run(tmp_path / "run.h5"), "origin")
    assert (event["step"], event["op"], event["samples"]) == (2 * BAD + 1, "log", [5])


def test_what_the_program_writes_beside_its_model(tmp_path: Path) -> None:
    """A mean of the user's that is written in place stands as if the step had not been executed again."""
    model, data = net(), batches(5)
    data[BAD][1][5] = -1.0
    optimizer, mean = SGD(model.parameters(), lr=0.05), torch.zeros(2)
    with nanscope.record(model, optimizer, tmp_path / "run.h5"):
        for x, y in data:
            optimizer.zero_grad()
            loss = (model(x) - torch.log(y + 0.1)).square().mean()
            mean.mul_(0.9).add_(y.mean(0), alpha=0.1)
            loss.backward()
            optimizer.step()
    only(nanscope.open_run(tmp_path / "run.h5"), "origin")
    expected = torch.zeros(2)
    for _, y in data:
        expected.mul_(0.9).add_(y.mean(0), alpha=0.1)
    assert torch.equal(mean, expected)


def test_between_two_backward_passes(tmp_path: Path) -> None:
    """What the second loss is made of belongs to the loss, also where no gradient can be asked of it."""
    model, data = net(), batches(5)
    data[BAD][1][6] = -0.1
    optimizer = SGD(model.parameters(), lr=0.05)
    with nanscope.record(model, optimizer, tmp_path / "run.h5"):
        for x, y in data:
            optimizer.zero_grad()
            output = model(x)
            squares(output, y).backward(retain_graph=True)
            (output - torch.log(y + 0.1)).square().mean().backward()
            optimizer.step()
    event = only(nanscope.open_run(tmp_path / "run.h5"), "origin")
    assert (event["step"], event["phase"], event["op"], event["samples"]) == (BAD, "loss", "log", [6])


@pytest.mark.parametrize(("rows", "blamed"), [([4], [4]), ([1, 6], [1, 6]), ([], [])])
def test_the_row_that_overflows(tmp_path: Path, rows: list[int], blamed: list[int]) -> None:
    """Rows that are far larger than the others are to blame for a sum; where all are, none is."""
    data = batches(5)
    data[BAD][1][:] += 0.0 if rows else 3e19
    data[BAD][1][rows] = 3e19
    event = only(recorded(tmp_path / "run.h5", net(), squares, data), "origin")
    assert (event["step"], event["samples"]) == (BAD, blamed)


def test_an_infinite_target_that_reaches_the_loss(tmp_path: Path) -> None:
    """It is the target, not the mean that lets it through; near miss: one that is masked out."""
    data = batches(5)
    data[BAD][1][2, 1] = math.inf
    run = recorded(tmp_path / "run.h5", net(), lambda out, y: (out - y).abs().mean(), data)
    assert (only(run, "origin")["op"], only(run, "origin")["samples"]) == ("sub", [2])
    assert nanscope.diagnose(run).causes[0].id == "bad-target"
    kept = recorded(
        tmp_path / "kept.h5", net(), lambda out, y: (out - y)[torch.isfinite(y)].abs().mean(), data
    )
    assert nanscope.diagnose(kept).verdict is Verdict.HEALTHY
