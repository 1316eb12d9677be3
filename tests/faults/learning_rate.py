"""Faults of the learning rate and the batch size."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from tests.faults.fault import Watch, fault
from tests.faults.parts import classification, mlp, regression

FAMILY = "learning rate and batch size"
CAUSE = "learning-rate-divergence"


@fault(
    FAMILY,
    step=9,
    phase="loss",
    module="",
    op="mse_loss",
    cause=CAUSE,
    source="own: gradient descent on a quadratic beyond 2 / sharpness",
)
def linear_regression_too_fast(watch: Watch) -> None:
    """Linear regression with features of scale 30: 2 / sharpness is far below the learning rate of 0.05."""
    torch.manual_seed(60)
    model = nn.Linear(6, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    x, y = regression(1, rows=64)[0]
    with watch(model, optimizer):
        for _ in range(40):
            optimizer.zero_grad()
            loss = functional.mse_loss(model(30 * x), y)
            loss.backward()
            optimizer.step()


@fault(
    FAMILY,
    step=27,
    phase="forward",
    module="4",
    op="addmm",
    cause=CAUSE,
    source="own: batch size 1 at the learning rate of a large batch",
)
def batch_of_one_at_the_rate_of_many(watch: Watch) -> None:
    """Batch size 1 with the learning rate that suited 64 rows."""
    torch.manual_seed(61)
    model = mlp(12, 48, 48, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.6)
    data = classification(300, rows=1, features=12)
    with watch(model, optimizer):
        for x, y in data:
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()


@fault(
    FAMILY,
    step=6,
    phase="loss",
    module="",
    op="mse_loss",
    cause=CAUSE,
    source="own: a deep regression network",
)
def deep_regression_too_fast(watch: Watch) -> None:
    """A regression network with four layers, where the gradient grows with the product of the weights."""
    torch.manual_seed(62)
    model = mlp(6, 32, 32, 32, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with watch(model, optimizer):
        for x, y in regression(60, rows=16):
            optimizer.zero_grad()
            loss = functional.mse_loss(model(3 * x), y)
            loss.backward()
            optimizer.step()


@fault(FAMILY, step=118, phase="loss", module="", op="mse_loss", cause=CAUSE, source="own: momentum above 1")
def momentum_too_high(watch: Watch) -> None:
    """SGD with a momentum of 1.6 instead of 0.6: velocities grow by themselves."""
    torch.manual_seed(63)
    model = nn.Linear(6, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=1.6)
    x, y = regression(1, rows=32)[0]
    with watch(model, optimizer):
        for _ in range(150):
            optimizer.zero_grad()
            loss = functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()


@fault(
    FAMILY,
    step=30,
    phase="loss",
    module="",
    op="mse_loss",
    cause=(CAUSE, "bad-learning-rate"),
    source="own: a schedule that grows without bound",
)
def schedule_that_never_stops_growing(watch: Watch) -> None:
    """A warm-up that multiplies the rate by 1.5 at every step and has no end."""
    torch.manual_seed(64)
    model = nn.Sequential(nn.Linear(6, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    warm_up = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=1.5)
    x, y = regression(1, rows=32)[0]
    with watch(model, optimizer):
        for _ in range(70):
            optimizer.zero_grad()
            loss = functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
            warm_up.step()


@fault(
    FAMILY,
    step=45,
    phase="loss",
    module="",
    op=("nll_loss", "nll_loss_forward"),
    cause=CAUSE,
    source="own: weight decay as large as its step",
)
def weight_decay_overshoots(watch: Watch) -> None:
    """The rate times the weight decay is 3.5, so that decay alone turns the weights around and grows them."""
    torch.manual_seed(65)
    model = mlp(6, 12, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=35.0)
    with watch(model, optimizer):
        for x, y in classification(110):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()


@fault(
    FAMILY,
    step=4,
    phase="loss",
    module="",
    op="mse_loss",
    cause=CAUSE,
    source="own: gradients summed over micro-batches, never divided",
)
def accumulation_without_division(watch: Watch) -> None:
    """Sixteen micro-batches are accumulated with their full losses: sixteen times the intended rate."""
    torch.manual_seed(66)
    model = mlp(6, 24, 1, activation=nn.Identity)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.08)
    data = regression(16, rows=8)
    with watch(model, optimizer):
        for _ in range(24):
            optimizer.zero_grad()
            for x, y in data:
                loss = functional.mse_loss(model(x), y)
                loss.backward()
            optimizer.step()
