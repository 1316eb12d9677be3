"""The MLP of the batch-size story and the optimizers it is trained with, built from a case.

The model is a `ModuleDict` of named layers, so that every site in a run file has a name that a reader knows:
`layers.layer1_layer`, `layers.layer1_activation`, `layers.layer2_layer`, ..., `layers.final_layer`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from nanscope.experiment.cases import Case

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky-relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}

_Make = Callable[[nn.Module, Case], torch.optim.Optimizer]
OPTIMIZERS: Mapping[str, _Make] = {
    "sgd": lambda model, case: torch.optim.SGD(model.parameters(), lr=case.lr, momentum=case.momentum),
    "rmsprop": lambda model, case: torch.optim.RMSprop(
        model.parameters(), lr=case.lr, momentum=case.momentum
    ),
    "adam": lambda model, case: torch.optim.Adam(model.parameters(), lr=case.lr),
    "adamw": lambda model, case: torch.optim.AdamW(model.parameters(), lr=case.lr),
}


class MLP(nn.Module):
    """Fully connected classifier with PyTorch's default initialisation.

    Args:
        inputs: features of a sample after flattening.
        hidden: width of each hidden layer, first to last; empty for a linear classifier.
        classes: number of logits.
        activation: a name of `ACTIVATIONS`, placed after each hidden layer.
    """

    def __init__(self, inputs: int, hidden: tuple[int, ...], classes: int, activation: str = "relu") -> None:
        super().__init__()
        self.layers = nn.ModuleDict()
        for number, (fan_in, fan_out) in enumerate(pairwise((inputs, *hidden)), start=1):
            self.layers[f"layer{number}_layer"] = nn.Linear(fan_in, fan_out)
            self.layers[f"layer{number}_activation"] = ACTIVATIONS[activation]()
        self.layers["final_layer"] = nn.Linear((inputs, *hidden)[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape (batch, classes), of samples of any shape (batch, ...)."""
        x = x.flatten(1)
        for layer in self.layers.values():
            x = layer(x)
        return x


def build_model(case: Case, inputs: int, classes: int) -> MLP:
    """The model of a case on its device, with the weights that `torch.manual_seed(case.seed)` would give.

    The weights are drawn on the CPU, so that every device starts from the same ones, and the program's own
    random numbers go on as if nothing had been drawn.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(case.seed)
        model = MLP(inputs, case.hidden, classes, case.activation)
    return model.to(case.device)


def build_optimizer(case: Case, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a case over all parameters of a model."""
    return OPTIMIZERS[case.optimizer](model, case)
