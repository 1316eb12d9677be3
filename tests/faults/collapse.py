"""Collapse and dead units: the loss stays finite, and the model answers the same whatever it is shown."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.faults.fault import Watch, fault
from tests.faults.loops import fit
from tests.faults.parts import classification, mlp

FAMILY = "collapse and dead units"


def mixed(batches: int, rows: int = 16, features: int = 6, classes: int = 4) -> list[tuple[Tensor, Tensor]]:
    """Batches whose labels are evenly mixed, and learnable."""
    return classification(batches, rows=rows, features=features, classes=classes)


@fault(
    FAMILY,
    cause=None,
    source="https://github.com/tensorflow/tensorflow/issues/57612",
    verdict="collapsed",
    rule=("dead-layer-collapse", "dead-units"),
)
def raw_inputs_kill_the_relus(watch: Watch) -> None:
    """Inputs with a mean of 8 at a learning rate for standardised ones: soon no ReLU fires any more."""
    torch.manual_seed(0)
    model = mlp(6, 12, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    data = [(x + 8.0, y) for x, y in mixed(260)]
    fit(watch, model, optimizer, data, functional.cross_entropy)


@fault(
    FAMILY,
    cause=None,
    source="https://github.com/WeiTang114/MVCNN-TensorFlow/issues/14",
    verdict="collapsed",
    rule=("dead-layer-collapse", "dead-units"),
)
def relu_on_negative_features(watch: Watch) -> None:
    """Biases start at -50 by a typing mistake: the ReLUs are dead before the first step."""
    torch.manual_seed(1)
    model = mlp(6, 12, 12, 4)
    nn.init.constant_(model[2].bias, -50.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    fit(watch, model, optimizer, mixed(200), functional.cross_entropy)


@fault(
    FAMILY,
    cause=None,
    source="https://github.com/keras-team/keras/issues/6447",
    verdict="collapsed",
    rule=("constant-logits", "class-collapse"),
)
def saturated_by_raw_inputs(watch: Watch) -> None:
    """Positive raw inputs of some ten thousands saturate every tanh at the same side, in every sample."""
    torch.manual_seed(2)
    model = mlp(6, 16, 4, activation=nn.Tanh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with torch.no_grad():
        model[0].weight.abs_()
    data = [(20000.0 + 1000.0 * x, y) for x, y in mixed(240)]
    fit(watch, model, optimizer, data, functional.cross_entropy)


@fault(
    FAMILY,
    cause=None,
    source="own: weight decay of 2 where 2e-4 was meant",
    verdict="collapsed",
    rule=("constant-logits", "class-collapse"),
)
def weight_decay_wins(watch: Watch) -> None:
    """The weight decay pulls every weight to zero: what is left is the bias, the same for every input."""
    torch.manual_seed(3)
    model = mlp(6, 16, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, weight_decay=2.0)
    fit(watch, model, optimizer, mixed(260), functional.cross_entropy)


@fault(
    FAMILY,
    step=78,
    phase="forward",
    module="2",
    op="addmm",
    cause="learning-rate-divergence",
    source="own: the digits at batch size 1, in small",
    rule="argmax-of-nan",
)
def class_zero_for_everything(watch: Watch) -> None:
    """Batch size 1 at a learning rate for 32: the weights diverge, and the argmax of NaN is class 0."""
    torch.manual_seed(4)
    model = mlp(12, 48, 48, 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.35)
    fit(watch, model, optimizer, mixed(400, rows=1, features=12, classes=5), functional.cross_entropy)


@fault(
    FAMILY,
    cause=None,
    source="https://github.com/keras-team/keras-contrib/pull/115",
    verdict=("suspicious", "collapsed"),
    rule="dead-units",
)
def most_units_die(watch: Watch) -> None:
    """All but two of 64 units have large negative biases; the two learn on, and the loss hides it."""
    torch.manual_seed(5)
    model = mlp(6, 64, 4)
    with torch.no_grad():
        model[0].bias[2:] = -80.0
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    fit(watch, model, optimizer, mixed(400), functional.cross_entropy)


@fault(
    FAMILY,
    cause=None,
    source="own: a scheduler in epochs that is stepped per batch, with a factor above 1",
    verdict="collapsed",
    rule=("dead-layer-collapse", "constant-logits", "class-collapse"),
)
def schedule_raises_the_rate(watch: Watch) -> None:
    """A schedule multiplies the rate by 1.03 per step: the model learns, is thrown out, and its ReLUs die."""
    torch.manual_seed(2)
    model = mlp(6, 8, 8, 8, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.03 ** min(step, 150))
    with watch(model, optimizer):
        for x, y in mixed(320):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            scheduler.step()
