"""A silent constant: nothing is non-finite, nothing raises, and the output does not depend on the input."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.faults.fault import Watch, fault
from tests.faults.loops import fit
from tests.faults.parts import classification, mlp, regression

FAMILY = "silent constant output"
STEPS = 240


@fault(
    FAMILY,
    cause=None,
    source="https://github.com/pytorch/pytorch/issues/108956",
    verdict="collapsed",
    rule=("constant-logits", "dead-layer-collapse", "class-collapse"),
)
def layer_norm_over_one_feature(watch: Watch) -> None:
    """A layer norm over a dimension of size 1 subtracts the value from itself: its output is its bias."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 1), nn.LayerNorm(1), nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    fit(watch, model, optimizer, classification(STEPS), functional.cross_entropy)


@fault(
    FAMILY,
    cause=None,
    source="own: a dropout probability given as the share to keep",
    verdict="collapsed",
    rule=("dead-layer-collapse", "dead-units"),
)
def dropout_of_everything(watch: Watch) -> None:
    """`nn.Dropout(1.0)`, where the share to keep was meant, zeroes every activation."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(1.0), nn.Linear(16, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    fit(watch, model, optimizer, classification(STEPS), functional.cross_entropy)


@fault(
    FAMILY,
    cause=None,
    source="https://github.com/marian-nmt/marian-dev/issues/21",
    verdict=("suspicious", "collapsed"),
)
def softmax_over_one_logit(watch: Watch) -> None:
    """A binary classifier ends in a softmax over its single output: the probability is always 1."""
    torch.manual_seed(2)
    model = nn.Sequential(*mlp(6, 16, 1), nn.Softmax(dim=1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    data = [(x, (y > 0).float()) for x, y in regression(STEPS)]
    fit(watch, model, optimizer, data, functional.mse_loss)


@fault(
    FAMILY,
    cause=None,
    source="https://github.com/WeiTang114/MVCNN-TensorFlow/issues/14",
    verdict=("collapsed", "suspicious"),
    rule=("dead-layer-collapse", "dead-units"),
)
def relu_after_the_last_layer(watch: Watch) -> None:
    """A ReLU follows the last layer and all targets are negative: the output is 0, and so is its slope."""
    torch.manual_seed(3)
    model = nn.Sequential(*mlp(6, 16, 1), nn.ReLU())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    data = [(x, -3.0 - y.abs()) for x, y in regression(STEPS)]
    fit(watch, model, optimizer, data, functional.mse_loss)


class RootMeanSquareNorm(nn.Module):
    """Rows divided by the root of their mean square."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape of `x`."""
        return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-6)


@fault(
    FAMILY,
    cause=("dtype-overflow", "activation-explosion"),
    source="own: squares overflow above 1.8e19 while the values are finite",
    verdict=("collapsed", "suspicious"),
)
def squares_overflow_to_silence(watch: Watch) -> None:
    """Inputs in units of 1e-24 square to infinity, rsqrt of it is 0, and every row becomes 0, never NaN."""
    torch.manual_seed(4)
    model = nn.Sequential(RootMeanSquareNorm(), *mlp(6, 16, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    data = [(x * 1e24, y) for x, y in classification(STEPS)]
    fit(watch, model, optimizer, data, functional.cross_entropy)


class LogOfSigned(nn.Module):
    """Logarithms of features, with NaN taken for missing and set to 0."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape of `x`."""
        return torch.log(x).nan_to_num(nan=0.0)


@fault(
    FAMILY,
    cause=None,
    source="own: nan_to_num over a mistake in the units",
    verdict=("collapsed", "suspicious"),
)
def nan_to_num_hides_everything(watch: Watch) -> None:
    """Features arrive negated, the log of each is NaN, and `nan_to_num` turns all of them into 0."""
    torch.manual_seed(5)
    model = nn.Sequential(LogOfSigned(), *mlp(6, 16, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    data = [(-x.abs() - 0.1, y) for x, y in classification(STEPS)]
    fit(watch, model, optimizer, data, functional.cross_entropy)


@fault(
    FAMILY,
    cause=None,
    source="own: pixels divided as integers",
    verdict=("collapsed", "suspicious"),
)
def pixels_divided_as_integers(watch: Watch) -> None:
    """Pixels below 255 are divided by 255 before they become floats: every image is black."""
    torch.manual_seed(6)
    model = mlp(6, 16, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with watch(model, optimizer):
        for x, y in classification(STEPS):
            pixels = (x * 12.0 + 128.0).clamp(0, 254).to(torch.uint8)
            optimizer.zero_grad()
            loss = functional.cross_entropy(model((pixels // 255).float()), y)
            loss.backward()
            optimizer.step()


@fault(
    FAMILY,
    cause=None,
    source="https://github.com/mhjabreel/CharCnn_Keras/issues/1",
    verdict=("collapsed", "suspicious"),
)
def threshold_above_every_activation(watch: Watch) -> None:
    """Activations below 5 are set to 0 by a threshold, and none is ever above it: the bias alone answers."""
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(6, 16), nn.Threshold(5.0, 0.0), nn.Linear(16, 4))
    nn.init.normal_(model[0].weight, std=0.01)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    fit(watch, model, optimizer, classification(STEPS), functional.cross_entropy)
