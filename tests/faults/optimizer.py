"""Faults in the optimizer, its settings and its schedule."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from tests.faults.fault import Watch, fault
from tests.faults.parts import classification, mlp, regression


@fault(
    "optimizer",
    step=0,
    phase="update",
    module="",
    op=("addcdiv", "div"),
    cause=("optimizer-update", "division-by-zero"),
    sample=None,
    source="own: Adam with eps=0 and a dead input",
)
def adam_without_epsilon(watch: Watch) -> None:
    """Adam with eps=0: a feature that is always 0 has gradient 0, and the update is 0 / 0."""
    torch.manual_seed(30)
    model = mlp(6, 8, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, eps=0.0)
    data = regression(6)
    for x, _ in data:
        x[:, 2] = 0.0
    with watch(model, optimizer):
        for x, y in data:
            optimizer.zero_grad()
            loss = functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()


@fault(
    "optimizer",
    step=5,
    phase="update",
    module="",
    op=("addcdiv", "div"),
    cause=("optimizer-update", "division-by-zero"),
    sample=None,
    source="own: RMSprop with eps=0",
)
def rmsprop_after_many_zeros(watch: Watch) -> None:
    """RMSprop with eps=0 and alpha=0 forgets the past at once: the first zero gradient is 0 / 0."""
    torch.manual_seed(31)
    model = mlp(4, 6, 1, activation=nn.Tanh)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3, eps=0.0, alpha=0.0)
    data = regression(9, features=4)
    data[5][0][:, 1] = 0.0
    with watch(model, optimizer):
        for x, y in data:
            optimizer.zero_grad()
            loss = functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()


@fault(
    "optimizer",
    step=4,
    phase="update",
    module="",
    op=("mul", "add", "sub"),
    cause="bad-learning-rate",
    sample=None,
    source="own: polynomial decay that is not clamped at its end",
)
def schedule_divides_by_zero(watch: Watch) -> None:
    """A polynomial decay past its last step: a negative base under a fractional power gives a NaN rate."""
    torch.manual_seed(32)
    model = mlp(6, 16, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: _decay(k, total=3))
    with watch(model, optimizer):
        for x, y in classification(8):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            decay.step()


def _decay(step: int, total: int) -> float:
    base = torch.tensor(1 - step / total)
    return float(base**0.9)


@fault(
    "optimizer",
    step=6,
    phase="update",
    module="",
    op=("mul", "add", "sub"),
    cause="bad-learning-rate",
    sample=None,
    source="own: rate set by hand",
)
def infinite_learning_rate(watch: Watch) -> None:
    """The rate is set by hand to 1 / remaining steps, which is infinite at the end."""
    torch.manual_seed(33)
    model = mlp(6, 16, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    with watch(model, optimizer):
        for step, (x, y) in enumerate(classification(9)):
            left = 6 - step
            optimizer.param_groups[0]["lr"] = 0.1 / left if left else math.inf
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()


@fault(
    "optimizer",
    step=3,
    phase="update",
    module=("", "0"),
    op=("lerp", "mul", "addcdiv", "add", "exp_avg", "state"),
    cause="optimizer-update",
    sample=None,
    source="own: optimizer state saved after a divergence",
)
def poisoned_state(watch: Watch) -> None:
    """An optimizer state with a NaN is loaded in the middle of the training."""
    torch.manual_seed(34)
    model = mlp(6, 16, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with watch(model, optimizer):
        for step, (x, y) in enumerate(regression(8)):
            if step == 3:
                state = optimizer.state_dict()
                state["state"][0]["exp_avg"][2, 1] = math.nan
                optimizer.load_state_dict(state)
            optimizer.zero_grad()
            loss = functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()


@fault(
    "optimizer",
    step=5,
    phase="update",
    module=("", "0"),
    op="sqrt",
    cause=("domain-error", "optimizer-update"),
    sample=None,
    source="own: optimizer state changed by hand",
)
def negative_second_moment(watch: Watch) -> None:
    """A correction by hand makes one running mean of squared gradients negative; Adam takes its root."""
    torch.manual_seed(35)
    model = mlp(6, 16, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with watch(model, optimizer):
        for step, (x, y) in enumerate(regression(9)):
            if step == 5:
                squares = optimizer.state[model[0].weight]["exp_avg_sq"]
                squares.sub_(2 * squares.mean())
            optimizer.zero_grad()
            loss = functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()


@fault(
    "optimizer",
    step=4,
    phase=("update", "backward"),
    module="",
    op=("div", "mul", "reciprocal"),
    cause="division-by-zero",
    sample=None,
    source="own: gradients normalised by hand to length 1",
)
def gradient_of_length_zero(watch: Watch) -> None:
    """Every gradient is divided by its norm, and the target is met exactly in one batch."""
    torch.manual_seed(36)
    model = nn.Linear(6, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer):
        for step, (x, y) in enumerate(regression(8)):
            target = model(x).detach() if step == 4 else y
            optimizer.zero_grad()
            loss = functional.mse_loss(model(x), target)
            loss.backward()
            for parameter in model.parameters():
                parameter.grad /= parameter.grad.norm()
            optimizer.step()
