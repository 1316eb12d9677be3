"""Faults of narrow dtypes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.faults.fault import Watch, fault
from tests.faults.parts import classification, mlp, regression


@fault(
    "precision",
    step=4,
    phase="forward",
    module="0",
    op=("addmm", "linear", "mm"),
    cause="dtype-overflow",
    sample=6,
    source="https://github.com/pytorch/pytorch/issues/8860 (NaN loss in half precision)",
)
def float16_autocast_overflow(watch: Watch) -> None:
    """Autocast to float16: a product of ordinary float32 numbers is above 65504."""
    torch.manual_seed(50)
    model = mlp(6, 16, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    data = regression(9)
    data[4][0][6] = 60000.0 * model[0].weight[0].detach().sign()
    with torch.no_grad():
        model[0].weight[0] *= 3.0
    with watch(model, optimizer):
        for x, y in data:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16):
                output = model(x)
            loss = functional.huber_loss(output.float(), y)
            loss.backward()
            optimizer.step()


@fault(
    "precision",
    step=0,
    phase="update",
    module="",
    op=("addcdiv", "div"),
    cause=("optimizer-update", "dtype-overflow", "division-by-zero"),
    sample=None,
    source="https://github.com/pytorch/pytorch/issues/147437 (Adam's eps is 0 in float16)",
)
def adam_in_float16(watch: Watch) -> None:
    """A model in float16: Adam's eps and the squares of small gradients round to 0, which divides."""
    torch.manual_seed(51)
    model = mlp(6, 8, 1).half()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with watch(model, optimizer):
        for x, y in regression(6):
            optimizer.zero_grad()
            loss = 1e-3 * functional.mse_loss(model(x.half()), y.half())
            loss.backward()
            optimizer.step()


class EnergyShare(nn.Module):
    """The share of each feature in the sum of squares."""

    def forward(self, x: Tensor) -> Tensor:
        """Of (rows, features)."""
        squares = x.pow(2)
        return squares / squares.sum(1, keepdim=True)


@fault(
    "precision",
    step=3,
    phase="forward",
    module="share",
    op="pow",
    cause="dtype-overflow",
    sample=1,
    source="own: squares of activations in float16",
)
def square_in_float16(watch: Watch) -> None:
    """Squares of activations in float16: that of 300 is above 65504, and inf / inf follows."""
    torch.manual_seed(52)
    model = nn.Sequential()
    model.add_module("inputs", nn.Linear(6, 8))
    model.add_module("share", EnergyShare())
    model.add_module("head", nn.Linear(8, 4))
    model.half()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    data = classification(8)
    data[3][0][1] = 1000.0 * model.inputs.weight[0].detach().float().sign()
    with watch(model, optimizer):
        for x, y in data:
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(x.half()).float(), y)
            loss.backward()
            optimizer.step()


@fault(
    "precision",
    step=5,
    phase="loss",
    module="",
    op="sum",
    cause="dtype-overflow",
    verdict=("diverged", "suspicious"),
    sample=None,
    source="own: a sum of squares left in float16",
)
def sum_in_float16(watch: Watch) -> None:
    """A loss summed over a large batch in float16: no term is large, and the sum is above 65504."""
    torch.manual_seed(53)
    model = mlp(6, 8, 40).half()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    sizes = [16] * 5 + [900] + [16] * 3
    batches = [torch.randn(size, 6).half() for size in sizes]
    with watch(model, optimizer):
        for x in batches:
            optimizer.zero_grad()
            loss = (model(x) - 2.0).square().sum()
            loss.backward()
            optimizer.step()


@fault(
    "precision",
    step=4,
    phase="loss",
    module="",
    op="log",
    cause="log-of-zero",
    sample=8,
    source="own: an epsilon that float16 rounds to 0",
)
def epsilon_lost_in_float16(watch: Watch) -> None:
    """log(p + 1e-8) in float16: the epsilon is below the smallest number, so it is no protection."""
    torch.manual_seed(54)
    model = mlp(6, 16, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    data = classification(9)
    data[4][0][8] *= 100.0
    with torch.no_grad():
        data[4][1][8] = model(data[4][0][8]).argmin()
    with watch(model, optimizer):
        for x, y in data:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16):
                probabilities = model(x).softmax(dim=1).half()
                picked = probabilities.gather(1, y[:, None])
                loss = -torch.log(picked + 1e-8).float().mean()
            loss.backward()
            optimizer.step()


@fault(
    "precision",
    step=2,
    phase="backward",
    module=("0", "2", ""),
    op=("addmm", "linear", "mm"),
    cause=("dtype-overflow", "gradient-explosion"),
    sample=None,
    source="own: a loss scaled by hand by a constant, without a scaler that lowers it",
)
def constant_loss_scale(watch: Watch) -> None:
    """A constant loss scale of 2 ** 17 by hand in float16: the scaled gradients of one batch overflow."""
    torch.manual_seed(55)
    model = mlp(6, 16, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    data = regression(7, rows=32)
    data[2][1].add_(300.0)
    scale = 2.0**17
    with watch(model, optimizer):
        for x, y in data:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16):
                output = model(x)
            loss = functional.smooth_l1_loss(output.float(), y) * scale
            loss.backward()
            for parameter in model.parameters():
                parameter.grad /= scale
            optimizer.step()


@fault(
    "precision",
    step=3,
    phase="loss",
    module="",
    op="exp",
    cause=("exp-overflow", "dtype-overflow"),
    source="own: contrastive loss with a small temperature in float16",
)
def contrastive_exp_in_float16(watch: Watch) -> None:
    """exp(similarity / temperature) in float16 overflows from 11.1 on, which float32 bears easily."""
    torch.manual_seed(56)
    model = nn.Linear(6, 8).half()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    pairs = [(x.half(), (0.1 * torch.randn(8, 6) - x).half()) for x in torch.randn(8, 8, 6)]
    pairs[3][1][4] = pairs[3][0][4]
    with watch(model, optimizer):
        for left, right in pairs:
            optimizer.zero_grad()
            both = functional.normalize(model(torch.cat([left, right])), dim=1)
            similarity = (both[:8] * both[8:]).sum(1)
            powers = torch.exp(12 * similarity)
            loss = (powers / (1 + powers)).float().mean()
            loss.backward()
            optimizer.step()


@fault(
    "precision",
    step=5,
    phase="loss",
    module="",
    op="log",
    cause="log-of-zero",
    sample=2,
    source="own: bfloat16 has three digits",
)
def one_minus_p_in_bfloat16(watch: Watch) -> None:
    """log(1 - p) in bfloat16: a probability of 0.999 rounds to 1."""
    torch.manual_seed(57)
    model = nn.Sequential(nn.Linear(6, 1), nn.Sigmoid())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    data = [(x, (y > 0).bfloat16()) for x, y in regression(9)]
    row = data[5][0][2]
    row *= 20 * (model[0].weight[0] @ row).detach().sign()
    with watch(model, optimizer):
        for x, y in data:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                p = model(x)
            loss = -torch.where(y > 0.5, torch.log(p + 1e-3), torch.log(1 - p)).float().mean()
            loss.backward()
            optimizer.step()


@fault(
    "precision",
    step=3,
    phase="data",
    module=("", "0"),
    op="input",
    cause="bad-input",
    verdict=("diverged", "suspicious"),
    source="own: a gradient scaler that skips every update for another reason than its scale",
)
def scaler_hides_a_bad_feature(watch: Watch) -> None:
    """From batch 3 on one feature is NaN; the scaler skips each update, and the training stands still."""
    torch.manual_seed(58)
    model = mlp(6, 16, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    data = classification(14)
    for x, _ in data[3:]:
        x[:, 2] = math.nan
    with watch(model, optimizer):
        for x, y in data:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16):
                loss = functional.cross_entropy(model(x), y)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
