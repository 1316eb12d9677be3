"""Births in the forward pass and the loss, near misses, and what heals."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import LBFGS, SGD

from tests.watching import birth_in, line_of, of_loss

Loss = Callable[[Tensor], Tensor]
ROWS = 4

BORN: dict[str, tuple[Loss, Any, str, str]] = {
    "log of zero": (lambda w: w.log().sum(), [1.0, 0.0], "log", "-inf"),
    "log of a negative": (lambda w: w.log().sum(), [1.0, -1.0], "log", "nan"),
    "exp": (lambda w: w.exp().sum(), [1.0, 90.0], "exp", "inf"),
    "division": (lambda w: (w / (w - 2)).sum(), [1.0, 2.0], "div", "inf"),
    "root of a negative": (lambda w: w.sqrt().sum(), [1.0, -4.0], "sqrt", "nan"),
    "power of a negative": (lambda w: (w**0.5).sum(), [1.0, -4.0], "pow", "nan"),
    "reciprocal": (lambda w: w.reciprocal().sum(), [1.0, 0.0], "reciprocal", "inf"),
    "arccosine": (lambda w: w.acos().sum(), [0.5, 1.5], "acos", "nan"),
    "square": (lambda w: w.square().sum(), [1.0, 1e30], "pow", "inf"),
    "product": (lambda w: (w * w).sum(), [1.0, 1e30], "mul", "inf"),
    "sum": (lambda w: w.sum(), [3e38, 3e38], "sum", "inf"),
    "mean of nothing": (lambda w: w[w > 5].mean(), [1.0, 2.0], "mean", "nan"),
    "deviation of one": (lambda w: w.std(), [1.0], "std", "nan"),
    "cast to float16": (lambda w: w.half().float().sum(), [1.0, 1e6], "to", "inf"),
    "root of a mean": (lambda w: functional.mse_loss(w, -w), [1.0, 2e19], "mse_loss", "inf"),
    "in place": (lambda w: w.clone().log_().sum(), [1.0, 0.0], "log", "-inf"),
    "complex": (lambda w: (torch.complex(w, w) / torch.complex(w, w)).abs().sum(), [0.0], "div", "nan"),
    "0-dim": (lambda w: w.log(), 0.0, "log", "-inf"),
    "matrix": (lambda w: (w @ w).sum(), [[1e30, 1.0], [1.0, 1.0]], "mm", "inf"),
    "norm": (lambda w: (w / w.norm()).sum(), [0.0, 0.0], "div", "nan"),
    "cosine": (lambda w: torch.atanh(w).sum(), [0.0, 1.0], "atanh", "inf"),
}


@pytest.mark.filterwarnings("ignore:std")
@pytest.mark.parametrize("name", BORN)
def test_what_is_born_in_a_loss(name: str) -> None:
    """The operation is named, its first broken element and its value too; no module was under way."""
    loss, weight, op, value = BORN[name]
    found = of_loss(loss, weight)
    assert found is not None
    assert (found["op"], found["phase"], found["module"]) == (op, "loss", "")
    assert found["elements"][0]["value"] == value
    assert not found["custom"]
    assert not found["hook"]
    assert all(operand["nan"] + operand["inf"] == 0 for operand in found["operands"])


FINE: dict[str, tuple[Loss, Any]] = {
    "log of something small": (lambda w: w.log().sum(), [1e-38, 1.0]),
    "exp of 88": (lambda w: w.exp().sum(), [88.0]),
    "infinity that vanishes": (lambda w: (1 / w.detach().exp()).sum() + w.sum(), [100.0]),
    "log in a branch without a gradient": (
        lambda w: torch.where(w > 0, w.detach().log(), w).sum(),
        [1.0, -1.0],
    ),
    "mask of infinity": (
        lambda w: w.masked_fill(torch.tensor([False, True]), -math.inf).softmax(0)[0],
        [1.0, 2.0],
    ),
    "mask that is added": (lambda w: (w + torch.tensor([0.0, -math.inf])).softmax(0)[0], [1.0, 2.0]),
    "smallest of many": (lambda w: torch.minimum(w, torch.full((2,), math.inf)).sum(), [1.0, 2.0]),
    "clamp by infinity": (lambda w: w.clamp(min=-math.inf).sum(), [1.0, 2.0]),
    "empty": (lambda w: w[w > 5].sum() + w.sum(), [1.0, 2.0]),
    "uninitialised": (lambda w: torch.empty(1000).copy_(w.expand(1000)).sum(), [1.0]),
    "missing target": (
        lambda w: (w - torch.tensor([1.0, math.nan]))[torch.tensor([True, False])].pow(2).sum(),
        [3.0, 2.0],
    ),
    "nan_to_num": (lambda w: w.detach().log().nan_to_num(0.0, 0.0, 0.0).sum() + w.sum(), [0.0, -1.0]),
    "ignored class": (lambda w: functional.cross_entropy(w, torch.tensor([0, -100])), [[1.0, 2.0]] * 2),
}


@pytest.mark.parametrize("name", FINE)
def test_what_does_no_harm_is_no_birth(name: str) -> None:
    """Near misses, healed infinities, and numbers that nobody computed."""
    assert of_loss(*FINE[name]) is None


def test_the_operand_and_its_makers() -> None:
    """Numbers of the operand, and of what it was made, three operations back."""

    def loss(w: Tensor) -> Tensor:
        spread = w * 100.0
        p = spread.softmax(1)
        return -p.log().mean()

    found = of_loss(loss, [[0.0, 5.0], [0.0, 0.01]], rows=2)
    assert found is not None
    (operand,) = found["operands"]
    assert (operand["zeros"], operand["numel"], operand["shape"]) == (1, 4, [2, 2])
    assert found["samples"] == [0]
    assert found["elements"] == [{"index": [0, 0], "value": "-inf", "operands": [0.0]}]
    maker = operand["made_by"]
    assert (maker["op"], maker["scalars"]["dim"], maker["operands"][0]["max"]) == ("softmax", 1, 500.0)
    first = maker["operands"][0]["made_by"]
    assert (first["op"], first["operands"][0]["name"]) == ("mul", "weight")
    assert maker["location"]["line"] == line_of(loss, "w * 100.0") + 1
    assert (found["location"]["line"], found["location"]["function"]) == (line_of(loss, "log()"), "loss")
    assert found["location"]["file"] == __file__
    assert found["call"] == "torch.Tensor.log"


class Two(nn.Module):
    """A linear layer and a logarithm."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.inner = nn.ModuleList([Logarithm()])
        with torch.no_grad():
            self.first.weight.copy_(torch.eye(3))
            self.first.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Shape of `x`."""
        result: Tensor = self.inner[0](self.first(x))
        return result


class Logarithm(nn.Module):
    """Log of everything."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape of `x`."""
        return torch.log(x)


def _x(row: int, value: float) -> Tensor:
    x = torch.ones(ROWS, 3)
    x[row, 1] = value
    return x


def _train(model: nn.Module, x: Tensor, y: Tensor | None = None, criterion: Any = None) -> Any:
    optimizer = SGD(model.parameters(), lr=0.1)
    criterion = criterion or functional.mse_loss
    y = torch.zeros(ROWS, 3) if y is None else y

    def step() -> None:
        criterion(model(x), y).backward()
        optimizer.step()

    return birth_in(step, model, [optimizer], inputs=[x], targets=[y], rows=ROWS)


def test_the_module_under_way_and_the_sample() -> None:
    """The innermost module, its line, and the row of the batch."""
    found = _train(Two(), _x(2, 0.0))
    assert (found["phase"], found["module"], found["op"]) == ("forward", "inner.0", "log")
    assert found["samples"] == [2]
    assert found["location"]["line"] == line_of(Logarithm.forward, "torch.log")
    assert [frame["function"] for frame in found["stack"][:2]] == ["forward", "forward"]
    assert found["trail"][-1]["phase"] == "backward" or found["trail"][-1]["phase"] == "update"


def test_a_healthy_step_of_a_model() -> None:
    """Nothing is born where every logarithm is of a positive number."""
    assert _train(Two(), _x(2, 1e-30)) is None


def test_a_loss_module_is_the_loss() -> None:
    """A criterion is no module of the model: what is born in it is born in the loss."""
    found = _train(nn.Linear(3, 3), _x(0, 1.0), torch.full((ROWS, 3), 3e38), nn.MSELoss())
    assert (found["phase"], found["module"], found["op"]) == ("loss", "", "mse_loss")


def test_a_broken_input() -> None:
    """NaN in the batch: data, with the rows that hold it."""
    found = _train(Two(), _x(3, math.nan))
    assert (found["phase"], found["op"], found["samples"]) == ("data", "input", [3])
    assert found["operands"][0]["name"] == "input"
    assert found["operands"][0]["nan"] == 1


class Centred(nn.Module):
    """Takes the mean over the batch off first."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Shape of `x`."""
        result: Tensor = self.last(x - x.mean(0))
        return result


def test_rows_of_a_broken_input_that_is_reduced_first() -> None:
    """The rows are those of the input, not of what was made of it."""
    found = _train(Centred(), _x(1, math.inf))
    assert (found["phase"], found["op"], found["samples"]) == ("data", "input", [1])


def test_a_broken_target() -> None:
    """NaN in the target: the operation of the loss which reads it, and the row."""
    y = torch.zeros(ROWS, 3)
    y[1] = math.nan
    found = _train(nn.Linear(3, 3), torch.ones(ROWS, 3), y)
    assert (found["phase"], found["op"]) == ("loss", "mse_loss")
    assert [operand["name"] for operand in found["operands"]][1] == "target"


def test_input_and_target_in_one_memory() -> None:
    """Columns of the same table are told apart."""
    table = torch.ones(ROWS, 6)
    table[2, 4] = math.nan
    found = _train(nn.Linear(3, 3), table[:, :3], table[:, 3:])
    assert (found["phase"], found["op"]) == ("loss", "mse_loss")


def test_a_broken_parameter_and_a_broken_buffer() -> None:
    """What was broken before the step began is told by its name."""
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    with torch.no_grad():
        model[0].weight[0, 0] = math.nan
    found = _train(model, torch.randn(ROWS, 3))
    assert (found["phase"], found["op"], found["operands"][0]["name"]) == ("init", "parameter", "0.weight")
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval()
    model[1].running_mean[0] = math.nan
    found = _train(model, torch.randn(ROWS, 3))
    assert (found["phase"], found["op"], found["operands"][0]["name"]) == ("init", "buffer", "1.running_mean")


class Masked(nn.Module):
    """Attention over three keys with a mask of -inf that is a buffer."""

    def __init__(self, blocked: list[bool]) -> None:
        super().__init__()
        self.score = nn.Linear(3, 3)
        self.register_buffer("mask", torch.zeros(3).masked_fill(torch.tensor(blocked), -math.inf))

    def forward(self, x: Tensor) -> Tensor:
        """Shape of `x`."""
        return (self.score(x) + self.mask).softmax(1)


def test_a_mask_in_a_buffer() -> None:
    """Softmax swallows it, unless every key is masked: then softmax is the birth, of infinite operands."""
    assert _train(Masked([False, True, True]), torch.ones(ROWS, 3)) is None
    found = _train(Masked([True, True, True]), torch.ones(ROWS, 3))
    assert (found["phase"], found["op"]) == ("forward", "softmax")
    assert found["operands"][0]["neginf"] == 3 * ROWS
    assert found["reduced"]["row"]["neginf"] == 3


def test_infinity_minus_infinity() -> None:
    """An infinity that is meant and turned into NaN: the operation which does that is the birth."""
    found = of_loss(
        lambda w: (w.masked_fill(w > 1, math.inf) - w.masked_fill(w > 1, math.inf)).sum(), [1.0, 2.0]
    )
    assert found is not None
    assert (found["op"], found["result"]["nan"]) == ("sub", 1)


def test_a_masked_class_that_is_the_target() -> None:
    """A meant infinity which is let through to the loss."""
    logits = torch.tensor([[False, True, False]])
    found = of_loss(
        lambda w: functional.cross_entropy(w.masked_fill(logits, -math.inf), torch.tensor([1])),
        [[1.0, 2.0, 3.0]],
    )
    assert found is not None
    assert (found["op"], found["call"]) == ("nll_loss", "torch.nn.functional.cross_entropy")
    assert found["healed"] == [] or all(link["op"] != "nll_loss" for link in found["healed"])


def test_the_second_part_of_an_accumulated_step() -> None:
    """After the first backward pass comes another loss, not yet the update."""
    model = nn.Linear(3, 3)
    nn.init.ones_(model.weight)
    optimizer = SGD(model.parameters(), lr=0.1)

    def step() -> None:
        for scale in (1.0, 1e30):
            loss = (model(torch.ones(ROWS, 3)) * scale).square().sum()
            loss.backward()
        optimizer.step()

    found = birth_in(step, model, [optimizer], rows=ROWS)
    assert found is not None
    assert (found["phase"], found["module"], found["op"]) == ("loss", "", "pow")


def test_a_second_loss_of_functions_alone() -> None:
    """What a gradient can be asked of is a loss, though a backward pass is over."""
    model = nn.ParameterDict({"w": nn.Parameter(torch.tensor([4.0, 0.0]))})

    def step() -> None:
        model["w"].sum().backward()
        model["w"].log().sum().backward()

    found = birth_in(step, model)
    assert found is not None
    assert (found["phase"], found["op"]) == ("loss", "log")


def test_a_closure() -> None:
    """An optimizer that computes the loss itself."""
    model = nn.ParameterDict({"w": nn.Parameter(torch.tensor([4.0, 0.0]))})
    optimizer = LBFGS(model.parameters())

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model["w"].log().sum()
        loss.backward()
        return loss

    found = birth_in(lambda: optimizer.step(closure), model, [optimizer])
    assert found is not None
    assert (found["phase"], found["op"]) == ("loss", "log")
    assert found["location"]["function"] == "closure"


def test_writes_through_views() -> None:
    """A write into one column breaks the whole, and the birth is found behind it."""

    def loss(w: Tensor) -> Tensor:
        whole = w.clone()
        row = whole[0]
        whole[:, 1] = torch.log(w[:, 1])
        return row.sum() + whole.sum()

    found = of_loss(loss, [[1.0, 0.0], [1.0, 1.0]])
    assert found is not None
    assert (found["op"], found["location"]["line"]) == ("log", line_of(loss, "torch.log"))

    def in_place(w: Tensor) -> Tensor:
        whole = w * 1
        whole[1].div_(0.0)
        return whole.exp().sum()

    found = of_loss(in_place, [[1.0, 0.0], [1.0, 1.0]])
    assert found is not None
    assert (found["op"], found["scalars"]["other"]) == ("div", 0.0)


def test_a_step_that_raises() -> None:
    """A check of the program's own raises after the birth; an error without a birth is not ours."""
    model = nn.Linear(3, 3)

    def step(value: float, *, fails: bool) -> None:
        loss = model(torch.ones(ROWS, 3)).masked_fill(torch.eye(4, 3).bool(), -math.inf).softmax(0).sum()
        loss = loss + torch.log(torch.tensor(value))
        if not torch.isfinite(loss) or fails:
            raise ValueError(f"loss is {loss}")

    found = birth_in(lambda: step(-1.0, fails=False), model)
    assert found is not None
    assert found["op"] == "log"
    with pytest.raises(ValueError, match="loss is"):
        birth_in(lambda: step(1.0, fails=True), model)
