"""Faults that only the backward pass has: every value of the forward pass is finite."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.faults.fault import Watch, fault, healthy
from tests.faults.parts import mlp, regression


@fault(
    "backward only",
    step=4,
    phase="backward",
    module="",
    op="sqrt",
    cause="sqrt-at-zero",
    source="https://github.com/pytorch/pytorch/issues/2421 (gradient of the root at 0)",
)
def root_of_an_exact_zero(watch: Watch) -> None:
    """A distance between two outputs which are equal for one row: the slope of the root there is infinite."""
    torch.manual_seed(20)
    model = mlp(6, 16, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    pairs = [(torch.randn(8, 6), torch.randn(8, 6)) for _ in range(9)]
    pairs[4][1][5] = pairs[4][0][5]
    with watch(model, optimizer):
        for left, right in pairs:
            optimizer.zero_grad()
            both = model(torch.cat([left, right]))
            squared = (both[:8] - both[8:]).square().sum(1)
            distance = torch.sqrt(squared)
            loss = (distance - 1.0).square().mean()
            loss.backward()
            optimizer.step()


class RootOfProducts(nn.Module):
    """A root that is 0 where its argument is not positive - in the forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape."""
        return torch.where(x > 0, torch.sqrt(x.abs()), torch.zeros_like(x))


@fault(
    "backward only",
    step=3,
    phase="backward",
    module="root",
    op="sqrt",
    cause=("masked-branch-gradient", "sqrt-at-zero"),
    sample=2,
    source="https://github.com/pytorch/pytorch/issues/23395 (where: the gradient of the other branch)",
)
def where_guards_only_the_value(watch: Watch) -> None:
    """`torch.where` picks the safe value, but the root's gradient at 0 is inf times 0."""
    torch.manual_seed(21)
    model = nn.Sequential()
    model.add_module("mix", nn.Linear(6, 8, bias=False))
    model.add_module("root", RootOfProducts())
    model.add_module("head", nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    data = regression(8, rows=8)
    data[3][0][2] = 0.0
    with watch(model, optimizer):
        for x, y in data:
            optimizer.zero_grad()
            loss = functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()


@fault(
    "backward only",
    step=4,
    phase=("backward", "loss"),
    module="",
    op="exp",
    cause="masked-branch-gradient",
    sample=6,
    source="https://github.com/pytorch/pytorch/issues/68425 (where over exp, and the branch not taken)",
)
def where_over_an_exponential(watch: Watch) -> None:
    """A barrier by `torch.where`: exp of a large margin is not picked, and its gradient is 0 * inf."""
    torch.manual_seed(27)
    model = mlp(5, 8, 1, activation=nn.Tanh)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    data = regression(8, rows=10, features=5)
    data[4][1][6] = -500.0
    with watch(model, optimizer):
        for x, y in data:
            optimizer.zero_grad()
            margin = model(x) - y
            barrier = torch.where(margin < 5, torch.exp(margin), margin + 143.4)
            loss = barrier.mean()
            loss.backward()
            optimizer.step()


@healthy("infinite slope, healed")
def clamp_heals_the_root(watch: Watch) -> None:
    """The root of a clamped number: its slope at 0 is infinite, and the clamp's backward takes it away."""
    torch.manual_seed(21)
    model = nn.Linear(6, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer):
        for x, y in regression(8):
            optimizer.zero_grad()
            output = model(x)
            root = torch.where(output > 0, torch.sqrt(output.clamp(min=0)), torch.zeros_like(output))
            loss = functional.mse_loss(root, y)
            loss.backward()
            optimizer.step()


@fault(
    "backward only",
    step=5,
    phase="backward",
    module="",
    op="acos",
    cause="domain-boundary-gradient",
    sample=0,
    source="https://github.com/pytorch/pytorch/issues/8069 (acos at 1 has an infinite gradient)",
)
def angle_of_a_saturated_cosine(watch: Watch) -> None:
    """A head of joint angles, acos(tanh(x)): tanh of one large input is exactly 1, where acos is steep."""
    torch.manual_seed(22)
    model = mlp(4, 8, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    data = regression(9, rows=6, features=4)
    data[5][0][0] *= 1000.0
    with watch(model, optimizer):
        for x, y in data:
            optimizer.zero_grad()
            angle = torch.acos(torch.tanh(model(x)))
            loss = functional.mse_loss(angle, y.sigmoid() * torch.pi)
            loss.backward()
            optimizer.step()


class SignedRoot(nn.Module):
    """The root of the magnitude with the sign kept, as after bilinear pooling."""

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape."""
        return torch.sign(x) * x.abs() ** 0.5


@fault(
    "backward only",
    step=2,
    phase="backward",
    module="root",
    op="pow",
    cause=("pow-at-zero", "zero-times-inf"),
    sample=11,
    source="own: signed root of bilinear features",
)
def signed_root_of_zero(watch: Watch) -> None:
    """sign(x) * |x| ** 0.5 of features that are 0 in an empty row: there the power has an infinite slope."""
    torch.manual_seed(23)
    model = nn.Sequential()
    model.add_module("hidden", nn.Linear(6, 8, bias=False))
    model.add_module("root", SignedRoot())
    model.add_module("head", nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    data = regression(6)
    data[2][0][11] = 0.0
    with watch(model, optimizer):
        for x, y in data:
            optimizer.zero_grad()
            loss = functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()


class Power(nn.Module):
    """A fractional power, as a soft compression of the features."""

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape, not negative."""
        return x**0.3


@healthy("infinite slope, healed")
def relu_heals_the_power(watch: Watch) -> None:
    """A power of 0.3 after a ReLU: its slope at 0 is infinite, and the ReLU's backward takes it away."""
    torch.manual_seed(23)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), Power(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer):
        for x, y in regression(6):
            optimizer.zero_grad()
            loss = functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()


@fault(
    "backward only",
    step=2,
    phase="backward",
    module="",
    op="sqrt",
    cause="sqrt-at-zero",
    sample=None,
    source="https://github.com/pytorch/pytorch/issues/4320 (gradient of std at a constant)",
)
def spread_of_equal_outputs(watch: Watch) -> None:
    """A diversity bonus on the std of the outputs: a batch of blank rows has spread 0 and slope 0/0."""
    torch.manual_seed(24)
    model = nn.Linear(6, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    data = [(x, torch.cat([y, -y], 1)) for x, y in regression(8)]
    data[2][0].zero_()
    with watch(model, optimizer):
        for x, y in data:
            optimizer.zero_grad()
            output = model(x)
            centred = output - output[:1].detach()
            loss = functional.mse_loss(output, y) - 0.1 * torch.var(centred, 0).sqrt().mean()
            loss.backward()
            optimizer.step()


@fault(
    "backward only",
    step=3,
    phase="backward",
    module="",
    op="log",
    cause=("dtype-overflow", "gradient-explosion", "domain-boundary-gradient"),
    sample=4,
    source="own: slope of the log at a subnormal number",
)
def reciprocal_of_a_tiny_number(watch: Watch) -> None:
    """log(x) at 1e-42 is finite, its slope 1e42 is beyond float32."""
    torch.manual_seed(25)
    model = nn.Linear(6, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    data = regression(8)
    with watch(model, optimizer):
        for number, (x, y) in enumerate(data):
            optimizer.zero_grad()
            scale = torch.ones(16, 1)
            if number == 3:
                scale[4] = 1e-42
            width = functional.softplus(model(x)) * scale
            loss = (torch.log(width) - y).square().mean()
            loss.backward()
            optimizer.step()


@fault(
    "backward only",
    step=6,
    phase="backward",
    module="",
    op="pow",
    cause=("pow-at-zero", "sqrt-at-zero", "domain-boundary-gradient"),
    sample=None,
    source="https://github.com/pytorch/pytorch/issues/44452 (norm with 0 < p < 1 at 0)",
)
def half_norm_of_sparse_weights(watch: Watch) -> None:
    """An L0.5 penalty on the weights: pruning makes some of them exactly 0, where its slope is infinite."""
    torch.manual_seed(26)
    model = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    data = [(x, y.repeat(1, 3)) for x, y in regression(10)]
    with watch(model, optimizer):
        for number, (x, y) in enumerate(data):
            if number == 6:
                with torch.no_grad():
                    model.weight.mul_(model.weight.abs() > 0.2)
            optimizer.zero_grad()
            penalty = model.weight.abs().pow(0.5).sum()
            loss = functional.mse_loss(model(x), y) + 1e-3 * penalty
            loss.backward()
            optimizer.step()
