"""Faults in the data and the targets."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.faults.fault import Watch, fault
from tests.faults.parts import classification, mlp, regression


@fault(
    "data and targets",
    step=4,
    phase="data",
    module=("", "0"),
    op="input",
    cause="bad-input",
    sample=11,
    source="own: a missing value of a table that became NaN",
)
def missing_value_in_a_row(watch: Watch) -> None:
    """One cell of one row of a table is NaN."""
    torch.manual_seed(40)
    model = mlp(6, 16, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    data = classification(9)
    data[4][0][11, 3] = math.nan
    with watch(model, optimizer):
        for x, y in data:
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()


@fault(
    "data and targets",
    step=3,
    phase=("loss", "data"),
    module="",
    op=("mse_loss", "input", "target", "sub"),
    cause="bad-target",
    sample=5,
    source="https://github.com/pyg-team/pytorch_geometric/pull/8001 (NaN labels in the last batch)",
)
def missing_target(watch: Watch) -> None:
    """One regression target is NaN."""
    torch.manual_seed(41)
    model = mlp(6, 16, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    data = regression(8)
    data[3][1][5] = math.nan
    with watch(model, optimizer):
        for x, y in data:
            optimizer.zero_grad()
            loss = functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()


@fault(
    "data and targets",
    step=5,
    phase=("data", "forward"),
    module=("", "0"),
    op=("input", "div"),
    cause=("bad-input", "division-by-zero"),
    sample=2,
    source="own: per-sample standardisation of a constant image",
)
def constant_image_standardised(watch: Watch) -> None:
    """Images are divided by their own standard deviation before the model, and one is a single colour."""
    torch.manual_seed(42)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    images = [torch.rand(8, 1, 8, 8) for _ in range(9)]
    images[5][2] = 0.5
    with watch(model, optimizer):
        for image in images:
            centred = image - image.mean((1, 2, 3), keepdim=True)
            x = centred / centred.square().mean((1, 2, 3), keepdim=True).sqrt()
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(x), image[:, 0, 0, :3].argmax(1))
            loss.backward()
            optimizer.step()


@fault(
    "data and targets",
    step=4,
    phase="loss",
    module="",
    op="xlogy",
    cause=("domain-error", "bad-target"),
    verdict=("diverged", "suspicious"),
    sample=7,
    source="own: a Poisson deviance of counts of which one was entered as negative",
)
def negative_count(watch: Watch) -> None:
    """A Poisson deviance takes the log of the target, and one count is -1, the code for `unknown`."""
    torch.manual_seed(43)
    model = mlp(6, 16, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    data = [(x, torch.poisson(y.exp().clamp(max=30))) for x, y in regression(9)]
    data[4][1][7] = -1.0
    with watch(model, optimizer):
        for x, y in data:
            optimizer.zero_grad()
            log_rate = model(x)
            deviance = torch.xlogy(y, y) - y * log_rate - y + log_rate.exp()
            loss = 2 * deviance.mean()
            loss.backward()
            optimizer.step()


@fault(
    "data and targets",
    step=6,
    phase="data",
    module=("", "0"),
    op="input",
    cause="bad-input",
    sample=3,
    source="own: ratios computed while loading",
)
def infinite_ratio(watch: Watch) -> None:
    """A feature is a ratio of two columns; one denominator is 0, so the input is inf."""
    torch.manual_seed(44)
    model = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    tables = [(torch.rand(12, 6) + 0.5, torch.rand(12, 6) + 0.5) for _ in range(9)]
    tables[6][1][3, 4] = 0.0
    with watch(model, optimizer):
        for above, below in tables:
            ratios = above / below
            optimizer.zero_grad()
            loss = functional.smooth_l1_loss(model(ratios), above.sum(1, keepdim=True))
            loss.backward()
            optimizer.step()


@fault(
    "data and targets",
    step=3,
    phase="loss",
    module="",
    op="log",
    cause=("log-of-zero", "bad-target"),
    sample=1,
    source="own: log-targets of prices",
)
def log_of_a_price_of_zero(watch: Watch) -> None:
    """The loss compares logs of prices, and one price is 0 because the item was a gift."""
    torch.manual_seed(45)
    model = mlp(5, 12, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    data = [(x, y.exp()) for x, y in regression(8, features=5)]
    data[3][1][1] = 0.0
    with watch(model, optimizer):
        for x, price in data:
            optimizer.zero_grad()
            loss = functional.mse_loss(model(x), price.log())
            loss.backward()
            optimizer.step()


class Weighted(nn.Module):
    """A linear model of normalised weights over the observed features."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(6))
        self.head = nn.Linear(6, 1)

    def forward(self, x: Tensor, observed: Tensor) -> Tensor:
        """Shapes (rows, 6), and 1 where a feature was observed."""
        weights = self.scores.exp() * observed
        shares = weights / weights.sum(dim=1, keepdim=True)
        return self.head(shares * x)


@fault(
    "data and targets",
    step=5,
    phase="forward",
    module="",
    op="div",
    cause="division-by-zero",
    sample=9,
    source="own: weights over the observed features",
)
def row_without_observations(watch: Watch) -> None:
    """Weights are normalised over the observed features, and one row has none."""
    torch.manual_seed(46)
    model = Weighted()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    data = [
        (x, y, (torch.rand(16, 6) > 0.3).float().index_fill(1, torch.tensor(0), 1)) for x, y in regression(9)
    ]
    data[5][2][9] = 0.0
    with watch(model, optimizer):
        for x, y, observed in data:
            optimizer.zero_grad()
            loss = functional.mse_loss(model(x, observed), y)
            loss.backward()
            optimizer.step()
