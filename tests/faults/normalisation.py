"""Faults in normalisation layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from tests.faults.fault import Watch, fault
from tests.faults.loops import fit
from tests.faults.parts import classification, mlp, regression

FAMILY = "normalisation"


def with_norm(norm: nn.Module, features: int = 6, outputs: int = 4) -> nn.Sequential:
    """The norm on the inputs, then a small network."""
    return nn.Sequential(norm, *mlp(features, 16, outputs))


@fault(
    FAMILY,
    step=4,
    phase="forward",
    module="0",
    op="layer_norm",
    sample=13,
    cause="division-by-zero",
    source="own: eps=0 of a layer norm, with a record whose sensors all read the same",
)
def layer_norm_without_eps(watch: Watch) -> None:
    """All features of one row are equal, and the layer norm has no eps: 0 * (1 / 0)."""
    torch.manual_seed(0)
    model = with_norm(nn.LayerNorm(6, eps=0.0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    data = classification(9)
    data[4][0][13] = 2.0
    fit(watch, model, optimizer, data, functional.cross_entropy)


class Standardise(nn.Module):
    """Mean 0 and standard deviation 1 within the batch."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, features), as it came."""
        return (x - x.mean(dim=0)) / (x.std(dim=0) + 1e-6)


@fault(
    FAMILY,
    step=6,
    phase="forward",
    module="0",
    op="std",
    cause="degenerate-reduction",
    source="https://github.com/pytorch/pytorch/issues/29372",
)
def last_batch_of_one(watch: Watch) -> None:
    """97 samples in batches of 16: the standard deviation over the last batch is that of one sample."""
    torch.manual_seed(1)
    model = with_norm(Standardise())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    x, y = classification(1, rows=97)[0]
    batches = [*zip(x.split(16), y.split(16), strict=True)]
    fit(watch, model, optimizer, batches * 2, functional.cross_entropy)


class ScaleToUnit(nn.Module):
    """Every row divided by its own length."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, features), as it came."""
        return x / x.norm(dim=1, keepdim=True)


@fault(
    FAMILY,
    step=5,
    phase="forward",
    module="0",
    op="div",
    sample=11,
    cause="division-by-zero",
    source="https://github.com/pytorch/pytorch/issues/3264",
)
def unit_length_of_an_empty_row(watch: Watch) -> None:
    """One row of features is all zero and is scaled to length 1 without an eps."""
    torch.manual_seed(2)
    model = with_norm(ScaleToUnit())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = classification(8)
    data[5][0][11] = 0.0
    fit(watch, model, optimizer, data, functional.cross_entropy)


class OnePass(nn.Module):
    """Layer norm whose variance is the mean of the squares minus the square of the mean."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, features), as it came."""
        mean = x.mean(dim=1, keepdim=True)
        variance = x.square().mean(dim=1, keepdim=True) - mean.square()
        return (x - mean) / (torch.sqrt(variance) + 1e-5)


@fault(
    FAMILY,
    step=3,
    phase="forward",
    module="0",
    op="sqrt",
    sample=9,
    cause="domain-error",
    source="https://github.com/anthonymlortiz/lcn/issues/4",
)
def variance_in_one_pass(watch: Watch) -> None:
    """The variance of a nearly constant row is rounded to a negative number, and its square root is NaN."""
    torch.manual_seed(3)
    model = with_norm(OnePass())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    data = classification(7)
    data[3][0][9] = torch.tensor([1000.1, 1000.1, 1000.1, 1000.1, 1000.1, 1000.1])
    fit(watch, model, optimizer, data, functional.cross_entropy)


class WhitenUnits(nn.Module):
    """Divides each unit by the root of its variance over the batch, with the eps outside of the root."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, units), as it came."""
        deviation = x.var(dim=0).sqrt()
        return (x - x.mean(dim=0)) / (deviation + 1e-3)


@fault(
    FAMILY,
    step=4,
    phase="backward",
    module="2",
    op="sqrt",
    cause="sqrt-at-zero",
    source="https://github.com/joe-siyuan-qiao/WeightStandardization/issues/1",
)
def eps_outside_of_the_root(watch: Watch) -> None:
    """A unit is saturated for a whole batch: its variance is 0, and the root has an infinite slope there."""
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), WhitenUnits(), nn.Linear(12, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    data = classification(8, rows=32)
    with torch.no_grad():
        direction = model[0].weight[5].sign()
    data[4] = (data[4][0] - 60.0 * direction, data[4][1])
    fit(watch, model, optimizer, data, functional.cross_entropy)


@fault(
    FAMILY,
    step=0,
    phase="forward",
    module=("2.parametrizations.weight.0", "2.parametrizations.weight", "2"),
    op="div",
    cause="division-by-zero",
    source="https://github.com/pytorch/pytorch/issues/20192",
)
def spectral_norm_of_zeros(watch: Watch) -> None:
    """The last layer starts at zero and has spectral norm: its weight is divided by a largest value of 0."""
    torch.manual_seed(5)
    model = mlp(6, 16, 1)
    nn.init.zeros_(model[2].weight)
    spectral_norm(model[2])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    fit(watch, model, optimizer, regression(6), functional.mse_loss)


@fault(
    FAMILY,
    step=0,
    phase="init",
    module="0",
    op="buffer",
    cause="bad-buffer",
    source="https://github.com/pytorch/pytorch/issues/1206",
)
def calibrated_on_missing_values(watch: Watch) -> None:
    """The running statistics were taken from a table with a missing value; training uses them frozen."""
    torch.manual_seed(6)
    model = with_norm(nn.BatchNorm1d(6))
    table = torch.randn(64, 6)
    table[17, 3] = float("nan")
    with torch.no_grad():
        model[0](table)
    model[0].eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    fit(watch, model, optimizer, classification(6), functional.cross_entropy)


class RunningScale(nn.Module):
    """Divides by a running standard deviation in evaluation, by that of the batch in training."""

    variance: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("variance", torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, features), as it came."""
        if not self.training:
            return x / (self.variance + 0.1).sqrt()
        with torch.no_grad():
            self.variance.lerp_(x.var(dim=0), 0.1)
        return x / (x.var(dim=0, correction=0) + 0.1).sqrt()


@fault(
    FAMILY,
    step=2,
    phase="forward",
    module="0",
    op="var",
    cause=("degenerate-reduction", "bad-buffer"),
    source="https://github.com/facebookresearch/SparseConvNet/issues/190",
)
def statistics_poisoned_earlier(watch: Watch) -> None:
    """A batch of one sample puts NaN into a running variance; it shows when the norm is frozen later."""
    torch.manual_seed(7)
    model = with_norm(RunningScale(6))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    data = classification(9)
    data[2] = (data[2][0][:1], data[2][1][:1])
    with watch(model, optimizer):
        for step, (x, y) in enumerate(data):
            if step == 5:
                model[0].eval()
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
