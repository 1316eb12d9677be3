"""Faults in custom functions, and in code that only looks like one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from tests.faults.fault import Watch, fault
from tests.faults.loops import fit
from tests.faults.parts import classification, mlp, regression

FAMILY = "custom functions and hooks"


class RootMeanSquare(torch.autograd.Function):
    """Root of the mean square of each row, with a slope written by hand."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Shape (batch, 1) from (batch, features)."""
        root = x.square().mean(dim=1, keepdim=True).sqrt()
        ctx.save_for_backward(x, root)
        return root

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """Shape (batch, features)."""
        x, root = ctx.saved_tensors
        return grads[0] * x / (root * x.shape[1])


class Loudness(nn.Module):
    """Appends the loudness of each row to it."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, features + 1)."""
        return torch.cat([x, RootMeanSquare.apply(x)], dim=1)


@fault(
    FAMILY,
    step=5,
    phase="backward",
    module="2",
    op="RootMeanSquare",
    sample=9,
    cause="custom-function",
    source="https://github.com/pytorch/pytorch/issues/2421",
)
def slope_of_silence(watch: Watch) -> None:
    """A hand-written backward divides by the loudness, and one row is silent: 0 / 0, forwards all is well."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.Tanh(), Loudness(), nn.Linear(9, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    data = regression(9)
    data[5][0][9] = 0.0
    fit(watch, model, optimizer, data, functional.mse_loss)


class Softplus(torch.autograd.Function):
    """log(1 + exp(x)) as it stands in the textbook."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Shape of `x`."""
        grown = torch.exp(x)
        ctx.save_for_backward(grown)
        return torch.log(1.0 + grown)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """Shape of `x`."""
        (grown,) = ctx.saved_tensors
        return grads[0] * grown / (1.0 + grown)


class SoftplusLayer(nn.Module):
    """The function as a layer."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape of `x`."""
        activated: Tensor = Softplus.apply(x)
        return activated


@fault(
    FAMILY,
    step=4,
    phase="forward",
    module="1",
    op="Softplus",
    sample=2,
    cause=("custom-function", "exp-overflow"),
    source="GRIST (ICSE 2022): softplus written out",
)
def textbook_softplus(watch: Watch) -> None:
    """A custom softplus takes exp of a pre-activation of some hundreds for one outlier."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), SoftplusLayer(), nn.Linear(8, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    data = classification(8)
    with torch.no_grad():
        data[4][0][2] = 300.0 * model[0].weight[0].sign()
    fit(watch, model, optimizer, data, functional.cross_entropy)


class NumpyLog(torch.autograd.Function):
    """A logarithm that leaves torch for numpy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Shape of `x`."""
        ctx.save_for_backward(x)
        with np.errstate(divide="ignore"):
            return torch.from_numpy(np.log(x.detach().numpy()))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """Shape of `x`."""
        (x,) = ctx.saved_tensors
        return grads[0] / x


class LogFeatures(nn.Module):
    """Logarithms of counts."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape of `x`."""
        logs: Tensor = NumpyLog.apply(x)
        return logs


@fault(
    FAMILY,
    step=6,
    phase="forward",
    module="0",
    op="NumpyLog",
    sample=4,
    cause=("custom-function", "log-of-zero"),
    source="own: a function that calls numpy, where torch sees nothing",
)
def logarithm_in_numpy(watch: Watch) -> None:
    """A custom function computes log in numpy; a count of 0 gives -inf and no operation of torch did it."""
    torch.manual_seed(2)
    model = nn.Sequential(LogFeatures(), *mlp(6, 16, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    data = [(torch.randint(1, 50, (16, 6)).float(), torch.randn(16, 1)) for _ in range(9)]
    data[6][0][4, 2] = 0.0
    fit(watch, model, optimizer, data, functional.mse_loss)


class GradientReversal(torch.autograd.Function):
    """The identity forwards, minus a strength backwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: Tensor) -> Tensor:
        """Shape of `x`."""
        ctx.save_for_backward(strength)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Shape of `x`."""
        (strength,) = ctx.saved_tensors
        return -grads[0] / (1.0 - strength), None


class Adversary(nn.Module):
    """A class from features, and a domain from features whose gradient is reversed."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.label, self.domain = mlp(6, 16, 8), nn.Linear(8, 4), nn.Linear(8, 2)

    def forward(self, x: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
        """Shapes (batch, 4) and (batch, 2)."""
        shared = self.body(x)
        return self.label(shared), self.domain(GradientReversal.apply(shared, strength))


@fault(
    FAMILY,
    step=8,
    phase="backward",
    module="",
    op="GradientReversal",
    cause="custom-function",
    source="https://arxiv.org/abs/1409.7495 (gradient reversal with a schedule)",
)
def reversal_strength_reaches_one(watch: Watch) -> None:
    """A gradient reversal layer divides by 1 - p, and the schedule of p reaches 1 in its last step."""
    torch.manual_seed(7)
    model = Adversary()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    schedule = torch.linspace(0.0, 1.0, 9)
    with watch(model, optimizer):
        for strength, (x, y) in zip(schedule, classification(9), strict=True):
            optimizer.zero_grad()
            labels, domains = model(x, strength)
            loss = functional.cross_entropy(labels, y) + functional.cross_entropy(domains, y % 2)
            loss.backward()
            optimizer.step()


class Checkpointed(nn.Module):
    """A block whose activations are computed again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 16), nn.Linear(16, 4)

    def inner(self, x: Tensor) -> Tensor:
        """Shape (batch, 4)."""
        return self.second(torch.log(3.0 + self.first(x)))

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, 4)."""
        result: Tensor = checkpoint(self.inner, x, use_reentrant=True)
        return result


@fault(
    FAMILY,
    step=4,
    phase="forward",
    module="1",
    op="log",
    sample=12,
    cause="domain-error",
    source="own: a checkpointed block is a custom function of torch, not of the user",
)
def logarithm_in_a_checkpoint(watch: Watch) -> None:
    """The log of a negative number inside of an activation checkpoint: a custom function, but torch's own."""
    torch.manual_seed(9)
    model = nn.Sequential(nn.Linear(6, 6), Checkpointed())
    nn.init.eye_(model[0].weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    data = [(torch.rand(16, 6), torch.randint(4, (16,))) for _ in range(7)]
    with torch.no_grad():
        data[4][0][12] = -20.0 * model[1].first.weight[0].sign()
    fit(watch, model, optimizer, data, functional.cross_entropy)
