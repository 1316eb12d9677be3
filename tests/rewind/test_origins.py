"""Origins end to end: through `record`, from the run file, one per phase; and by going back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

import nanscope
from nanscope.values import Phase, Verdict
from tests.rewind.loops import Batch, Loss, batches, net, only, recorded, squares, train
from tests.watching import line_of

BAD = 3  # step
ROW = 5


class Logarithm(nn.Module):
    """Log of the square, which is fine but at zero."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape of `x`."""
        return torch.log(x * x)


class Root(nn.Module):
    """A root whose slope is infinite at zero."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape of `x`."""
        return torch.sqrt(x * x)


def of_products(output: Tensor, y: Tensor) -> Tensor:
    """A loss with a division."""
    return (output / y).square().mean()


@dataclass
class Plan:
    """A training with a fault in step 3, and what is to be said of it."""

    layers: tuple[nn.Module, ...] = ()
    loss: Loss = squares
    data: Callable[[list[Batch]], None] = lambda _: None
    said: dict[str, Any] = field(default_factory=dict)
    cause: str = ""
    place: tuple[Callable[..., Any], str] | None = None


def _input(data: list[Batch]) -> None:
    data[BAD][0][ROW, 1] = torch.nan


def _target(data: list[Batch]) -> None:
    data[BAD][1][ROW] = torch.nan


def _zero_target(data: list[Batch]) -> None:
    for batch in data:
        batch[1].add_(1.0)
    data[BAD][1][ROW] = 0.0


def _zero_row(data: list[Batch]) -> None:
    for batch in data:
        batch[0].add_(1.0)
    data[BAD][0][ROW] = 0.0


class NoBias(nn.Module):
    """Nothing but a weight for each feature: a row of zeros stays one."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, 2)."""
        result: Tensor = self.last(x * self.weight)[:, :2]
        return result


PLANS: dict[str, Plan] = {
    "data": Plan(data=_input, said={"phase": "data", "module": "", "op": "input"}, cause="bad-input"),
    "forward": Plan(
        layers=(Logarithm(),),
        data=_zero_row,
        said={"phase": "forward", "module": "last", "op": "log"},
        cause="log-of-zero",
        place=(Logarithm.forward, "torch.log"),
    ),
    "loss": Plan(
        loss=of_products,
        data=_zero_target,
        said={"phase": "loss", "module": "", "op": "div"},
        cause="division-by-zero",
        place=(of_products, "output / y"),
    ),
    "target": Plan(data=_target, said={"phase": "loss", "module": ""}, cause="bad-target"),
    "backward": Plan(
        layers=(Root(),),
        data=_zero_row,
        said={"phase": "backward", "module": "last", "op": "sqrt"},
        cause="sqrt-at-zero",
        place=(Root.forward, "torch.sqrt"),
    ),
}


@pytest.mark.parametrize("name", PLANS)
def test_an_origin_in_each_phase(tmp_path: Path, name: str) -> None:
    """Step, phase, module, operation, line, sample (checked) and cause, from an ordinary loop."""
    plan = PLANS[name]
    data = batches(6)
    plan.data(data)
    model: nn.Module = NoBias(plan.layers[0]) if plan.layers else net()
    run = recorded(tmp_path / "run.h5", model, plan.loss, data)
    event = only(run, "origin")
    assert {key: event[key] for key in plan.said} == plan.said
    assert (event["step"], event["noticed"], event["steps_back"]) == (BAD, BAD, 0)
    assert event["samples"] == [ROW]
    assert event["rows"] == 8
    if plan.place is not None:
        assert event["samples_checked"] is True
        assert event["location"]["file"] == __file__
        assert event["location"]["line"] == line_of(*plan.place)
    answer = nanscope.diagnose(run)
    assert answer.causes[0].id == plan.cause
    assert answer.origin is not None
    assert (answer.origin.step, answer.origin.phase) == (BAD, Phase(plan.said["phase"]))
    assert answer.verdict is Verdict.DIVERGED


def test_a_parameter_that_was_broken_before(tmp_path: Path) -> None:
    """Phase init, by its name; no sample is blamed."""
    model = net()
    with torch.no_grad():
        model[2].weight[0, 1] = torch.inf
    run = recorded(tmp_path / "run.h5", model, squares, batches(2))
    event = only(run, "origin")
    assert (event["phase"], event["op"], event["samples"]) == ("init", "parameter", [])
    assert event["operands"][0]["name"] == "2.weight"
    assert nanscope.diagnose(run).causes[0].id == "bad-parameter"


MAKERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "Adam": lambda model: Adam(model.parameters(), lr=0.01, eps=0.0),
    "Adam, foreach": lambda model: Adam(model.parameters(), lr=0.01, eps=0.0, foreach=True),
    "Adam, fused": lambda model: Adam(model.parameters(), lr=0.01, eps=0.0, fused=True),
}


@pytest.mark.parametrize("maker", MAKERS)
def test_an_update_is_found_by_going_back(tmp_path: Path, maker: str) -> None:
    """The weights of step 3 break after its update, which the next forward pass notices."""
    data = batches(8)
    model = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 2))
    for x, _ in data:
        x[:, 2] = 0.0  # a weight that gets no gradient, ever
    with torch.no_grad():
        model[1].weight.fill_(1.0)
    optimizer = MAKERS[maker](model)
    with nanscope.record(model, optimizer, tmp_path / "run.h5"):
        for step, batch in enumerate(data):
            optimizer.param_groups[0]["eps"] = 0.0 if step == BAD else 1e-8
            train(model, optimizer, squares, [batch])
    run = nanscope.open_run(tmp_path / "run.h5")
    event = only(run, "origin")
    assert (event["step"], event["phase"], event["optimizer"]) == (BAD, "update", "Adam")
    assert event["settings"]["eps"] == 0.0
    assert nanscope.diagnose(run).causes[0].id == "optimizer-update"


def test_the_last_update_of_all(tmp_path: Path) -> None:
    """Nobody calls the model again: it is looked for when the block is left."""
    model = net()
    optimizer = SGD(model.parameters(), lr=0.05)
    with nanscope.record(model, optimizer, tmp_path / "run.h5"):
        train(model, optimizer, squares, batches(4))
        optimizer.param_groups[0]["lr"] = float("inf")
        train(model, optimizer, squares, batches(1, seed=2))
    event = only(nanscope.open_run(tmp_path / "run.h5"), "origin")
    assert (event["step"], event["phase"]) == (4, "update")


@pytest.mark.parametrize("raises", [False, True])
def test_a_loop_that_ends_itself_before_the_backward_pass(tmp_path: Path, raises: bool) -> None:
    """It breaks, or raises, on a NaN loss: the step that was never ended is executed again."""
    data, model = batches(6), NoBias(Logarithm())
    _zero_row(data)
    optimizer = SGD(model.parameters(), lr=0.05)

    def loop() -> None:
        for x, y in data:
            loss = squares(model(x), y)
            if not torch.isfinite(loss):
                if raises:
                    raise ArithmeticError("the loss is not finite")
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    if raises:
        with (
            pytest.raises(ArithmeticError),
            nanscope.record(model, optimizer, tmp_path / "run.h5"),
        ):
            loop()
    else:
        with nanscope.record(model, optimizer, tmp_path / "run.h5"):
            loop()
    event = only(nanscope.open_run(tmp_path / "run.h5"), "origin")
    assert (event["step"], event["phase"], event["op"], event["samples"]) == (BAD, "forward", "log", [ROW])


def test_the_first_harm_alone_is_told(tmp_path: Path) -> None:
    """Later steps of a poisoned training have no origins of their own."""
    data = batches(9)
    _input(data)
    data[6][0][0, 0] = torch.inf
    run = recorded(tmp_path / "run.h5", net(), squares, data)
    assert only(run, "origin")["step"] == BAD
