"""Faults that are there before the first step: weights, buffers and their scale."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.faults.fault import Watch, fault
from tests.faults.loops import fit
from tests.faults.parts import classification, mlp, regression

FAMILY = "initialisation"


@fault(
    FAMILY,
    step=0,
    phase="init",
    module="2",
    op="parameter",
    cause="bad-parameter",
    source="https://github.com/cardwing/Codes-for-PVKD/issues/9",
)
def nan_in_checkpoint(watch: Watch) -> None:
    """The checkpoint that is loaded holds a few NaN in one weight."""
    torch.manual_seed(0)
    trained = mlp(6, 16, 16, 4).state_dict()
    trained["2.weight"][3, 5:8] = float("nan")
    model = mlp(6, 16, 16, 4)
    model.load_state_dict(trained)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    fit(watch, model, optimizer, classification(6), functional.cross_entropy)


@fault(
    FAMILY,
    step=0,
    phase="init",
    module="0",
    op="parameter",
    cause="bad-parameter",
    source="https://github.com/sauradip/STALE/issues/16",
)
def scale_by_fan_of_zero(watch: Watch) -> None:
    """Weights are drawn with 1 / sqrt(fan), and the fan of a grouped layer was computed as 6 // 8 = 0."""
    torch.manual_seed(1)
    model = mlp(6, 16, 4)
    fan = torch.tensor(6 // 8)
    with torch.no_grad():
        model[0].weight.normal_().mul_(1.0 / fan.sqrt())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    fit(watch, model, optimizer, classification(6), functional.cross_entropy)


class Wavelengths(nn.Module):
    """Inputs divided by fixed wavelengths, kept as a buffer of frequencies."""

    frequencies: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", 1.0 / torch.arange(features))

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, features), as it came."""
        return torch.sin(x * self.frequencies)


@fault(
    FAMILY,
    step=0,
    phase="init",
    module="0",
    op="buffer",
    cause="bad-buffer",
    source="own: a table of frequencies that counts from 0",
)
def infinite_frequency(watch: Watch) -> None:
    """A positional table is 1 / arange(n): its first entry is infinite, and the sine of it NaN."""
    torch.manual_seed(2)
    model = nn.Sequential(Wavelengths(6), *mlp(6, 16, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    fit(watch, model, optimizer, regression(6), functional.mse_loss)


@fault(
    FAMILY,
    step=0,
    phase="forward",
    module="100",
    op="addmm",
    cause=("activation-explosion", "dtype-overflow"),
    source="https://arxiv.org/abs/1502.01852 (variance over depth)",
)
def standard_normal_weights_in_depth(watch: Watch) -> None:
    """Sixty layers of width 64 with weights of variance 1: each multiplies the activations by about 5.7."""
    torch.manual_seed(3)
    model = mlp(16, *[64] * 60, 4)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    fit(watch, model, optimizer, classification(4, features=16), functional.cross_entropy)


class Temperature(nn.Module):
    """Logits divided by a learnt temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(()))

    def forward(self, logits: Tensor) -> Tensor:
        """Shape (batch, classes), as it came."""
        return logits / self.value


@fault(
    FAMILY,
    step=0,
    phase="forward",
    module="3",
    op="div",
    cause="division-by-zero",
    source="own: a temperature initialised like a bias",
)
def temperature_starts_at_zero(watch: Watch) -> None:
    """A learnt temperature is initialised with zeros, as biases are, and divides the logits."""
    torch.manual_seed(4)
    model = nn.Sequential(*mlp(6, 16, 4), Temperature())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    fit(watch, model, optimizer, classification(5), functional.cross_entropy)


@fault(
    FAMILY,
    step=0,
    phase="init",
    module="0",
    op="parameter",
    cause="bad-parameter",
    source="own: word vectors of unit length, with a padding word of zeros",
)
def normalised_word_vectors(watch: Watch) -> None:
    """Word vectors are scaled to length 1 before training, and that of the padding word is zero: 0 / 0."""
    torch.manual_seed(5)
    vectors = torch.randn(20, 8)
    vectors[0] = 0.0
    table = nn.Embedding.from_pretrained(vectors / vectors.norm(dim=1, keepdim=True), freeze=False)
    model = nn.Sequential(table, nn.Flatten(), nn.Linear(32, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [(torch.randint(20, (8, 4)), torch.randint(3, (8,))) for _ in range(6)]
    fit(watch, model, optimizer, batches, functional.cross_entropy)


class Gain(nn.Module):
    """A fixed large gain, learnt further."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((features,), 1e5))

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, features), as it came."""
        return x * self.gain


@fault(
    FAMILY,
    step=0,
    phase="init",
    module="1",
    op="parameter",
    cause=("bad-parameter", "dtype-overflow"),
    source="https://github.com/huggingface/transformers/pull/4098",
)
def halved_after_initialisation(watch: Watch) -> None:
    """A gain of 1e5 is fine in float32; `model.half()` turns it into infinity before the first step."""
    torch.manual_seed(6)
    model = nn.Sequential(nn.Linear(6, 8), Gain(8), nn.Tanh(), nn.Linear(8, 4)).half()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer):
        for x, y in classification(6):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(x.half()).float(), y)
            loss.backward()
            optimizer.step()


class LogScale(nn.Module):
    """Noise whose log scale is learnt."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(start))

    def forward(self, x: Tensor) -> Tensor:
        """Shape of `x`."""
        return x + self.log_scale.exp() * torch.randn_like(x)


@fault(
    FAMILY,
    step=0,
    phase="forward",
    module="1",
    op="exp",
    cause="exp-overflow",
    source="own: a scale of 100 given where its logarithm was wanted",
)
def scale_given_for_its_logarithm(watch: Watch) -> None:
    """A learnt log scale starts at 100, the scale that was meant: exp(100) is infinite."""
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(6, 16), LogScale(100.0), nn.ReLU(), nn.Linear(16, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    fit(watch, model, optimizer, regression(5), functional.mse_loss)
