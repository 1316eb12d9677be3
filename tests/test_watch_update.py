"""Births between the backward pass and the end of the step: clipping, optimizers, scaling."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

from tests.watching import Data, birth_in

X = torch.ones(4, 3)


def _updated(
    optimizer: Optimizer, model: nn.Module, scale: float = 0.0, *, clip: bool = False
) -> Data | None:
    def step() -> None:
        (model(X) * scale).sum().backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return birth_in(step, model, [optimizer], inputs=[X], rows=4)


KINDS: dict[str, dict[str, bool]] = {
    "for loop": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [Adam, AdamW])
def test_adam_without_eps(make: Any, kind: str) -> None:
    """0 / 0 where a gradient is 0 and eps too, in every implementation."""
    model = nn.Linear(3, 1)
    found = _updated(make(model.parameters(), lr=0.1, eps=0.0, **KINDS[kind]), model)
    assert found is not None
    assert (found["phase"], found["module"], found["optimizer"]) == ("update", "", make.__name__)
    assert found["op"] in ("addcdiv", "foreach_addcdiv", "fused_adam", "fused_adamw")
    assert found["samples"] == []
    names = [operand["name"] for operand in found["operands"]]
    assert "weight" in names
    assert "state:exp_avg" in names
    assert any(operand["zeros"] == operand["numel"] for operand in found["operands"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [Adam, AdamW])
def test_adam_in_order(make: Any, kind: str) -> None:
    """With its eps nothing is born."""
    model = nn.Linear(3, 1)
    assert _updated(make(model.parameters(), lr=0.1, **KINDS[kind]), model) is None


@pytest.mark.parametrize("make", [RMSprop, Adagrad])
def test_others_without_eps(make: Any) -> None:
    """The same 0 / 0 in RMSprop and Adagrad."""
    model = nn.Linear(3, 1)
    found = _updated(make(model.parameters(), lr=0.1, eps=0.0), model)
    assert found is not None
    assert (found["phase"], found["optimizer"]) == ("update", make.__name__)
    assert _updated(make(model.parameters(), lr=0.1, eps=1e-8), model) is None


@pytest.mark.parametrize("foreach", [False, True])
def test_the_second_of_several_parameters(foreach: bool) -> None:
    """Operands and elements are those of the parameter that broke, the bias."""
    model = nn.Linear(3, 1)
    optimizer = Adam(model.parameters(), lr=0.1, eps=0.0, foreach=foreach)

    def step() -> None:
        model(X).sum().backward()
        model.bias.grad.zero_()
        optimizer.step()

    found = birth_in(step, model, [optimizer])
    assert found is not None
    assert "bias" in [operand["name"] for operand in found["operands"]]
    assert "weight" not in [operand["name"] for operand in found["operands"]]
    assert found["result"]["shape"] == [1]


@pytest.mark.parametrize("foreach", [False, True])
def test_a_learning_rate_that_overflows(foreach: bool) -> None:
    """The write into the parameter."""
    model = nn.Linear(3, 1)
    found = _updated(SGD(model.parameters(), lr=1e38, foreach=foreach), model, 1e10)
    assert found is not None
    assert (found["phase"], found["optimizer"]) == ("update", "SGD")
    assert found["op"] in ("add", "foreach_add")


def test_clipping_a_norm_that_overflows() -> None:
    """A gradient of 3e38 is finite, its norm is not, and what is clipped by it is NaN or zero."""
    model = nn.Linear(3, 1)
    optimizer = SGD(model.parameters(), lr=0.1)

    def step() -> None:
        (model(X) * 1e30).sum().backward()
        total = torch.stack([p.grad.pow(2).sum() for p in model.parameters()]).sum().sqrt()
        for p in model.parameters():
            p.grad.mul_(total / (total + 1))
        optimizer.step()

    found = birth_in(step, model, [optimizer])
    assert found is not None
    assert (found["phase"], found["op"]) == ("update", "pow")


def test_a_norm_that_overflows_and_does_no_harm() -> None:
    """`clip_grad_norm_` divides by inf: the gradients become zero, nothing else."""
    model = nn.Linear(3, 1)
    assert _updated(SGD(model.parameters(), lr=0.1), model, 1e30, clip=True) is None


def test_clipping_by_nothing() -> None:
    """A gradient over its own norm of 0, by hand."""
    model = nn.Linear(3, 1)
    optimizer = SGD(model.parameters(), lr=0.1)

    def step() -> None:
        (model(X) * 0).sum().backward()
        for p in model.parameters():
            p.grad /= p.grad.norm()
        optimizer.step()

    found = birth_in(step, model, [optimizer])
    assert found is not None
    assert (found["phase"], found["op"]) == ("update", "div")
    assert found["operands"][0]["name"] == "weight.grad"


class Sign(Optimizer):
    """A custom optimizer: gradient over its size."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.sub_(parameter.grad / parameter.grad.abs(), alpha=group["lr"])


def test_a_custom_optimizer() -> None:
    """Its own line and name."""
    model = nn.Linear(3, 1)
    found = _updated(Sign(model.parameters()), model)
    assert found is not None
    assert (found["phase"], found["op"], found["optimizer"]) == ("update", "div", "Sign")
    assert found["location"]["function"] == "step"
    assert _updated(Sign(model.parameters()), model, 1.0) is None


def test_a_loss_scale_that_overflows() -> None:
    """Float16 gradients of a scaled loss: the scaler skips the step, but the gradients are not finite."""
    model = nn.Linear(3, 1).half()

    def step() -> None:
        (model(X.half()).float().sum() * 2.0**17).backward()

    found = birth_in(step, model, rows=4)
    assert found is not None
    assert found["phase"] == "backward"
    assert found["op"] == "to"
    assert found["result"]["dtype"] == "float16"


def test_a_state_that_was_broken_before() -> None:
    """A moment that is NaN when the step begins."""
    model = nn.Linear(3, 1)
    optimizer = Adam(model.parameters(), lr=0.1)
    model(X).sum().backward()
    optimizer.step()
    optimizer.state[model.weight]["exp_avg"].fill_(math.nan)
    found = _updated(optimizer, model, 1.0)
    assert found is not None
    assert found["phase"] == "update"
    assert "state:exp_avg" in [operand["name"] for operand in found["operands"] if operand["nan"]]


def test_a_write_into_a_parameter_after_the_update() -> None:
    """Weights that are renormalised by hand, outside of the optimizer."""
    model = nn.Linear(3, 1)
    optimizer = SGD(model.parameters(), lr=0.1)

    def step() -> None:
        model(X).sum().backward()
        optimizer.step()
        with torch.no_grad():
            model.weight.mul_(0.0)
            model.weight.div_(model.weight.norm())

    found = birth_in(step, model, [optimizer])
    assert found is not None
    assert (found["phase"], found["op"]) == ("update", "div")
