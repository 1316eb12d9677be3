"""The MLP of the blog post: names, shapes, weights, optimizers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from nanscope.experiment.cases import ACTIVATIONS, OPTIMIZERS, Case
from nanscope.experiment.model import MLP, build_model, build_optimizer


def test_layers_have_the_names_of_the_blog_post() -> None:
    """Two hidden layers with their activations, then the final layer, as a ModuleDict in this order."""
    model = MLP(64, (1024, 1024), 10)
    names = ["layer1_layer", "layer1_activation", "layer2_layer", "layer2_activation", "final_layer"]
    assert isinstance(model.layers, nn.ModuleDict)
    assert list(model.layers) == names
    shapes = [tuple(p.shape) for p in model.parameters() if p.dim() == 2]
    assert shapes == [(1024, 64), (1024, 1024), (10, 1024)]


def test_logits_equal_a_float64_oracle() -> None:
    """relu(x W1 + b1) W2 + b2 in numpy, with images flattened first."""
    model = build_model(Case(hidden=(7,)), inputs=6, classes=3)
    x = torch.arange(24.0).reshape(4, 2, 3) / 10 - 1
    w1, b1, w2, b2 = (p.detach().double().numpy() for p in model.parameters())
    hidden = np.maximum(x.double().numpy().reshape(4, 6) @ w1.T + b1, 0)
    np.testing.assert_allclose(model(x).detach().numpy(), hidden @ w2.T + b2, rtol=1e-5, atol=1e-6)


def test_without_hidden_layers_it_is_linear() -> None:
    """An empty list of widths leaves the final layer alone."""
    assert list(MLP(5, (), 2).layers) == ["final_layer"]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_is_placed(activation: str) -> None:
    """The module after the first layer is the one that was asked for."""
    layer = MLP(5, (3,), 2, activation).layers["layer1_activation"]
    assert type(layer).__name__.lower() == activation.replace("-", "")


def test_weights_are_those_of_the_seed_and_of_nothing_else() -> None:
    """The same as a plain program with `torch.manual_seed`, whatever was drawn before."""
    torch.rand(3)
    built = build_model(Case(hidden=(8,), seed=5), inputs=4, classes=3)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        plain = MLP(4, (8,), 3)
    assert all(torch.equal(a, b) for a, b in zip(built.parameters(), plain.parameters(), strict=True))


def test_building_draws_no_random_numbers_of_the_program() -> None:
    """The program's generator goes on as if no model had been built."""
    before = torch.get_rng_state()
    build_model(Case(hidden=(8,)), inputs=4, classes=3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_has_the_learning_rate_of_the_case(name: str) -> None:
    """The right class, the right rate, every parameter."""
    model = MLP(4, (8,), 3)
    optimizer = build_optimizer(Case(optimizer=name, lr=0.025), model)
    (group,) = optimizer.param_groups
    assert type(optimizer).__name__.lower() == name
    assert group["lr"] == 0.025
    assert len(group["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize("name", ["sgd", "rmsprop"])
def test_momentum_reaches_the_optimizer(name: str) -> None:
    """Where an optimizer takes momentum, it gets it."""
    optimizer = build_optimizer(Case(optimizer=name, momentum=0.9), MLP(4, (), 2))
    assert optimizer.param_groups[0]["momentum"] == 0.9
