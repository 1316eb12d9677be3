"""Faults in an operation of the model's forward pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.faults.fault import Watch, fault
from tests.faults.parts import classification, mlp, regression


class LogFeatures(nn.Module):
    """The logarithm of every feature, which are counts."""

    def forward(self, counts: Tensor) -> Tensor:
        """Of (rows, features)."""
        return torch.log(counts)


@fault(
    "forward",
    step=4,
    phase="forward",
    module="0",
    op="log",
    cause="log-of-zero",
    sample=9,
    source="own: log transform of counts inside the model",
)
def log_of_a_count(watch: Watch) -> None:
    """A layer takes the log of counts, and one count is 0."""
    torch.manual_seed(10)
    model = nn.Sequential(LogFeatures(), mlp(6, 16, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    batches = [torch.randint(1, 40, (12, 6)).float() for _ in range(9)]
    batches[4][9, 2] = 0.0
    with watch(model, optimizer):
        for counts in batches:
            optimizer.zero_grad()
            loss = functional.mse_loss(model(counts), counts.log1p().mean(1, keepdim=True))
            loss.backward()
            optimizer.step()


class Amplitude(nn.Module):
    """The root of a learned quadratic, as in a model of distances."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        """Of (rows, 6)."""
        energy = self.mix(x) + 3.0
        return torch.sqrt(energy)


@fault(
    "forward",
    step=5,
    phase="forward",
    module="amplitude",
    op="sqrt",
    cause="domain-error",
    sample=4,
    source="GRIST (Yan et al., ESEC/FSE 2021): arguments out of the domain",
)
def root_of_a_negative(watch: Watch) -> None:
    """A layer takes a square root of something which is positive only on ordinary inputs."""
    torch.manual_seed(11)
    model = nn.Sequential()
    model.add_module("amplitude", Amplitude())
    model.add_module("head", nn.Linear(6, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    data = [(x.clamp(-1.5, 1.5), y) for x, y in regression(10)]
    data[5][0][4] *= 50.0
    with watch(model, optimizer):
        for x, y in data:
            optimizer.zero_grad()
            loss = functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()


class Unit(nn.Module):
    """Embeddings brought to length 1, by hand."""

    def forward(self, x: Tensor) -> Tensor:
        """Of (rows, features)."""
        return x / x.norm(dim=1, keepdim=True)


@fault(
    "forward",
    step=3,
    phase="forward",
    module="unit",
    op="div",
    cause="division-by-zero",
    sample=1,
    source="https://github.com/pytorch/pytorch/issues/184575 (normalising a vector of zeros)",
)
def unit_vector_of_zeros(watch: Watch) -> None:
    """Features are divided by their length, and every ReLU before is off for one row."""
    torch.manual_seed(12)
    model = nn.Sequential()
    model.add_module("encoder", nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU()))
    model.add_module("unit", Unit())
    model.add_module("head", nn.Linear(8, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    data = classification(8)
    data[3][0][1] = 0.0
    with watch(model, optimizer):
        for x, y in data:
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()


class Softmax(nn.Module):
    """A softmax from its formula, without the maximum taken off."""

    def forward(self, scores: Tensor) -> Tensor:
        """Of (rows, classes)."""
        powers = torch.exp(scores)
        return powers / powers.sum(dim=1, keepdim=True)


@fault(
    "forward",
    step=6,
    phase="forward",
    module="softmax",
    op="exp",
    cause="exp-overflow",
    sample=0,
    source="GRIST (Yan et al., ESEC/FSE 2021): softmax written as exp(x) / sum(exp(x))",
)
def naive_softmax(watch: Watch) -> None:
    """A softmax by the book overflows for logits beyond 88."""
    torch.manual_seed(13)
    model = nn.Sequential()
    model.add_module("scores", mlp(6, 16, 4))
    model.add_module("softmax", Softmax())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    data = classification(10)
    data[6][0][0] *= 1000.0
    with watch(model, optimizer):
        for x, y in data:
            optimizer.zero_grad()
            loss = functional.nll_loss(torch.log(model(x) + 1e-6), y)
            loss.backward()
            optimizer.step()


class Power(nn.Module):
    """Generalised-mean pooling with a learned exponent, as in image retrieval."""

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(2.5))

    def forward(self, x: Tensor) -> Tensor:
        """Of (rows, channels, positions)."""
        return (x**self.p).mean(dim=2) ** (1 / self.p)


@fault(
    "forward",
    step=4,
    phase="forward",
    module="pool",
    op="pow",
    cause="domain-error",
    sample=3,
    source="own: generalised-mean pooling without clamp(min=eps)",
)
def fractional_power_of_a_negative(watch: Watch) -> None:
    """Generalised-mean pooling raises to a fractional power, and one activation is below 0."""
    torch.manual_seed(14)
    model = nn.Sequential()
    model.add_module("pool", Power())
    model.add_module("head", nn.Linear(5, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    batches = [torch.rand(8, 5, 7) + 0.1 for _ in range(8)]
    batches[4][3, 2, 5] = -0.02
    with watch(model, optimizer):
        for x in batches:
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(x), x.mean(2).argmax(1) % 3)
            loss.backward()
            optimizer.step()


class Polynomial(nn.Module):
    """Powers of the input up to the 24th, as features."""

    def forward(self, x: Tensor) -> Tensor:
        """Of (rows, 1) to (rows, 24)."""
        return torch.cat([x**k for k in range(1, 25)], dim=1)


@fault(
    "forward",
    step=5,
    phase="forward",
    module="features",
    op="pow",
    cause=("dtype-overflow", "activation-explosion"),
    sample=7,
    source="own: polynomial regression on inputs that are not scaled",
)
def power_beyond_float32(watch: Watch) -> None:
    """Polynomial features: the 24th power of 100 is beyond float32."""
    torch.manual_seed(15)
    model = nn.Sequential()
    model.add_module("features", Polynomial())
    model.add_module("head", nn.Linear(24, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    batches = [torch.rand(10, 1) * 2 - 1 for _ in range(9)]
    batches[5][7] = 100.0
    with watch(model, optimizer):
        for x in batches:
            optimizer.zero_grad()
            loss = functional.smooth_l1_loss(model(x), torch.sin(3 * x))
            loss.backward()
            optimizer.step()


class Standardise(nn.Module):
    """Standardises the features over the batch, by hand."""

    def forward(self, x: Tensor) -> Tensor:
        """Of (rows, features)."""
        return (x - x.mean(0)) / (x.std(0) + 1e-6)


@fault(
    "forward",
    step=6,
    phase="forward",
    module="standardise",
    op=("std", "var"),
    cause="degenerate-reduction",
    sample=None,
    source="own: standard deviation of the last batch, which has one row",
)
def spread_of_one_row(watch: Watch) -> None:
    """The last batch of an epoch has one row, whose standard deviation is 0 / 0."""
    torch.manual_seed(16)
    model = nn.Sequential()
    model.add_module("standardise", Standardise())
    model.add_module("body", mlp(6, 16, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    data = classification(7)
    data[6] = (data[6][0][:1], data[6][1][:1])
    with watch(model, optimizer):
        for x, y in data + data[:3]:
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
