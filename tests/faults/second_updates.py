"""Faults of a second round: likelihoods, matrices, graphs, and parameters that no update moves."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.faults.fault import Watch, fault
from tests.faults.loops import fit
from tests.faults.parts import classification, mlp, regression

STEPS = 120


@fault(
    "loss",
    step=2,
    phase="loss",
    module="",
    op="xlogy",
    sample=4,
    cause="log-of-zero",
    source="https://github.com/pytorch/pytorch/issues/92260",
)
def beta_likelihood_of_one(watch: Watch) -> None:
    """The likelihood of shares under a beta distribution: one share is exactly 1."""
    torch.manual_seed(3)
    model = mlp(4, 8, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    def surprise(output: Tensor, share: Tensor) -> Tensor:
        a, b = (functional.softplus(output) + 0.1).unbind(dim=1)
        return -torch.distributions.Beta(a, b, validate_args=False).log_prob(share).mean()

    data = [(torch.randn(7, 4), torch.rand(7).clamp(0.01, 0.99)) for _ in range(5)]
    data[2][1][4] = 1.0
    fit(watch, model, optimizer, data, surprise)


class Flow(nn.Module):
    """A linear flow of which some entries may be switched off; the density of a unit normal."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3) + 0.1 * torch.randn(3, 3))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Negative log density of each row."""
        weight = self.weight * mask
        return (x @ weight).square().sum(dim=1) / 2 - torch.linalg.slogdet(weight).logabsdet


@fault(
    "forward",
    step=3,
    phase="forward",
    module="",
    op=("slogdet", "linalg_slogdet"),
    cause=("log-of-zero", "division-by-zero"),
    source="own: a flow whose matrix loses its rank",
)
def flow_without_an_inverse(watch: Watch) -> None:
    """A mask switches a whole column of a flow's matrix off: the logarithm of its determinant is -inf."""
    torch.manual_seed(13)
    model = Flow()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    data = [(torch.randn(8, 3), torch.ones(3, 3), torch.zeros(8)) for _ in range(6)]
    data[3][1][:, 1] = 0.0
    fit(watch, model, optimizer, data, lambda density, _: density.mean())


class GraphLayer(nn.Module):
    """Sums over neighbours, normalised by the degrees of both ends."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Of (nodes, inputs) and (nodes, nodes)."""
        scale = edges.sum(dim=1).pow(-0.5)
        mixed: Tensor = self.linear((scale.unsqueeze(1) * edges * scale) @ x)
        return mixed


class GraphNet(nn.Module):
    """Two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = GraphLayer(5, 8), GraphLayer(8, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Shape (nodes, 3)."""
        return self.second(self.first(x, edges).relu(), edges)  # type: ignore[no-any-return]


def graphs(count: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Of seven nodes, all of which have neighbours: features, symmetric edges, labels."""
    found = []
    for _ in range(count):
        edges = (torch.rand(7, 7) > 0.4).float().triu(1)
        edges[0, 1:] = 1.0
        found.append((torch.randn(7, 5), edges + edges.T, torch.randint(3, (7,))))
    return found


@fault(
    "forward",
    step=3,
    phase="forward",
    module="first",
    op="pow",
    cause=("pow-at-zero", "division-by-zero"),
    source="https://github.com/stellargraph/stellargraph/issues/1015",
)
def isolated_node(watch: Watch) -> None:
    """Degrees to the power of -1/2: one node of one graph has no neighbour."""
    torch.manual_seed(22)
    model = GraphNet()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    data = graphs(6)
    data[3][1][4] = data[3][1][:, 4] = 0.0
    fit(watch, model, optimizer, data, functional.cross_entropy)


@fault(
    "normalisation",
    step=4,
    phase="forward",
    module="norm",
    op="batch_norm",
    cause=("domain-error", "bad-buffer"),
    source="own: the momentum of a running mean given as what is kept",
)
def momentum_of_a_running_variance_above_two(watch: Watch) -> None:
    """A batch norm with a momentum of 2.5 extrapolates: in evaluation its variance is negative."""
    torch.manual_seed(78)
    model = nn.Sequential()
    model.add_module("body", nn.Linear(3, 4))
    model.add_module("norm", nn.BatchNorm1d(4, momentum=2.5))
    model.add_module("head", nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer):
        for step in range(8):
            model.norm.train(step < 4)
            x = torch.randn(8, 3) * (1.0 if step % 2 else 3.0)
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()


@fault(
    "optimizer",
    cause="gradient-explosion",
    verdict="suspicious",
    rule="frozen-weights",
    source="own: one loss that is far out of range, under Adam",
)
def square_of_one_gradient_overflows(watch: Watch) -> None:
    """One gradient of 1e24: Adam's mean of squares is infinite ever after, and nothing learns any more."""
    torch.manual_seed(36)
    model = nn.Linear(6, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with watch(model, optimizer):
        for step, (x, y) in enumerate(regression(STEPS)):
            optimizer.zero_grad()
            loss = functional.l1_loss(model(x), y)
            (loss * 1e24 if step == 3 else loss).backward()
            optimizer.step()


@fault(
    "optimizer",
    cause=None,
    verdict="suspicious",
    rule="frozen-weights",
    source="own: the optimizer was made before the model was made anew",
)
def optimizer_of_another_model(watch: Watch) -> None:
    """The optimizer holds the parameters of a model that is not trained."""
    torch.manual_seed(82)
    model, old = mlp(6, 16, 4), mlp(6, 16, 4)
    optimizer = torch.optim.Adam(old.parameters(), lr=0.01)
    with watch(model, optimizer):
        for x, y in classification(STEPS):
            model.zero_grad()
            functional.cross_entropy(model(x), y).backward()
            optimizer.step()


class CutOff(nn.Module):
    """A body whose output is detached before the head reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = mlp(6, 16, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (rows, 4)."""
        return self.head(self.body(x).detach())  # type: ignore[no-any-return]


@fault(
    "optimizer",
    cause=None,
    verdict="suspicious",
    rule="frozen-weights",
    source="own: a detach that was left over from debugging",
)
def body_detached_by_mistake(watch: Watch) -> None:
    """The head learns and the body does not: its output is detached, though the optimizer holds it."""
    torch.manual_seed(83)
    model = CutOff()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    fit(watch, model, optimizer, classification(STEPS), functional.cross_entropy)
