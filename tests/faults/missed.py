"""Faults that were told wrongly, or not at all, when they were first tried: of several families."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.faults.fault import Watch, fault
from tests.faults.loops import fit
from tests.faults.parts import classification, mlp, regression


class Gain(nn.Module):
    """An innovation weighted by the inverse of its covariance, as in a Kalman filter."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3)

    def forward(self, covariance: Tensor, innovation: Tensor) -> Tensor:
        """Of (rows, 3, 3) and (rows, 3)."""
        inverse = torch.linalg.inv_ex(covariance)[0]
        return self.head((inverse @ innovation.unsqueeze(-1)).squeeze(-1))


@fault(
    "forward",
    step=3,
    phase="forward",
    module="",
    op="linalg_inv_ex",
    cause="division-by-zero",
    sample=2,
    source="own: `inv_ex` gives NaN for a singular matrix where `inv` raises",
)
def inverse_of_a_singular_matrix(watch: Watch) -> None:
    """The inverse of covariances by `inv_ex`, whose `info` nobody reads: one covariance is singular."""
    torch.manual_seed(15)
    model = Gain()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    data = []
    for step in range(6):
        root = torch.randn(5, 3, 3)
        covariance = root @ root.mT + torch.eye(3)
        if step == 3:
            covariance[2] = 1.0
        data.append((covariance, torch.randn(5, 3), torch.randn(5, 3)))
    fit(watch, model, optimizer, data, functional.mse_loss)


class Axes(nn.Module):
    """The principal axes of every patch."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(3, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Of (rows, pixels, 3) to (rows, 9)."""
        mixed = self.mix(x)
        return torch.linalg.eigh(mixed.mT @ mixed / mixed.shape[1])[1].abs().flatten(1)


@fault(
    "backward only",
    step=4,
    phase="backward",
    module="axes",
    op="linalg_eigh",
    cause="division-by-zero",
    sample=3,
    source="https://github.com/pytorch/pytorch/issues/23133",
)
def axes_of_a_blank_patch(watch: Watch) -> None:
    """Principal axes by `eigh`: those of a blank patch have equal eigenvalues, whose difference divides."""
    torch.manual_seed(17)
    model = nn.Sequential()
    model.add_module("axes", Axes())
    model.add_module("head", nn.Linear(9, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    data = [(torch.randn(5, 16, 3), torch.randint(2, (5,))) for _ in range(5)]  # `eigh` of NaN raises later
    data[4][0][3] = 0.0
    fit(watch, model, optimizer, data, functional.cross_entropy)


@fault(
    "loss",
    step=3,
    phase="loss",
    module="",
    op="mse_loss",
    cause="dtype-overflow",
    sample=4,
    source="own: one target in other units",
)
def square_of_a_large_target(watch: Watch) -> None:
    """One target is 1e20 by a mistake of units: it is finite, and its squared error is not."""
    torch.manual_seed(66)
    model = mlp(6, 12, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    data = regression(6)
    data[3][1][4] = 1e20
    fit(watch, model, optimizer, data, functional.mse_loss)


@fault(
    "loss",
    step=7,
    phase="loss",
    module="",
    op="log",
    cause="log-of-zero",
    sample=4,
    source="https://github.com/callummcdougall/ARENA_3.0/pull/369",
)
def discriminator_too_sure(watch: Watch) -> None:
    """A GAN with log(D(fake)): the discriminator is certain of one sample, and its sigmoid is exactly 0."""
    torch.manual_seed(69)
    generator, critic = mlp(3, 12, 4), mlp(4, 12, 1)
    with torch.no_grad():
        for weight in (generator[2].weight, critic[0].weight, critic[2].weight):
            weight.abs_().neg_()
        generator[0].weight.abs_()
    both = nn.ModuleDict({"generator": generator, "critic": critic})
    of_generator = torch.optim.Adam(generator.parameters(), lr=1e-3)
    of_critic = torch.optim.Adam(critic.parameters(), lr=1e-3)
    with watch(both, (of_critic, of_generator)):
        for round_ in range(5):
            real, noise = torch.randn(8, 4) + 3, torch.randn(8, 3)
            if round_ == 3:
                noise[4] = 3000.0
            of_critic.zero_grad()
            fake = critic(generator(noise).detach())
            loss = functional.softplus(-critic(real)).mean() + functional.softplus(fake).mean()
            loss.backward()
            of_critic.step()
            of_generator.zero_grad()
            loss = -torch.log(torch.sigmoid(critic(generator(noise)))).mean()
            loss.backward()
            of_generator.step()


class MaxPool(nn.Module):
    """The largest of every feature over a set; padding is -inf."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = mlp(3, 12, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor, sizes: Tensor) -> Tensor:
        """Of (rows, places, 3) and (rows,)."""
        padding = torch.arange(x.shape[1]) >= sizes[:, None]
        features = self.encoder(x).masked_fill(padding[..., None], -math.inf)
        return self.head(features.amax(dim=1))


@fault(
    "masking and attention",
    step=3,
    phase="forward",
    module="head",
    op="addmm",
    cause="empty-reduction",
    sample=4,
    source="https://github.com/dmlc/dgl/pull/669",
)
def largest_of_an_empty_set(watch: Watch) -> None:
    """Max pooling over sets of which one is empty: its maximum is -inf, of which a layer makes NaN."""
    torch.manual_seed(511)
    model = MaxPool()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    data = [(torch.randn(6, 5, 3), torch.randint(1, 6, (6,)), torch.randint(2, (6,))) for _ in range(6)]
    data[3][1][4] = 0
    fit(watch, model, optimizer, data, functional.cross_entropy)


@fault(
    "optimizer",
    step=0,
    phase="update",
    module="",
    op="div",
    cause=("division-by-zero", "optimizer-update"),
    source="own: bias correction counted from 0",
)
def adam_by_hand(watch: Watch) -> None:
    """Adam by hand counts its steps from 0, so that the first bias correction is 1 - 0.9 ** 0 = 0."""
    torch.manual_seed(44)
    model = mlp(6, 8, 1)
    parameters = list(model.parameters())
    means = [torch.zeros_like(p) for p in parameters]
    with watch(model):
        for step, (x, y) in enumerate(regression(5)):
            model.zero_grad()
            functional.mse_loss(model(x), y).backward()
            with torch.no_grad():
                for parameter, mean in zip(parameters, means, strict=True):
                    mean.mul_(0.9).add_(parameter.grad, alpha=0.1)
                    parameter.sub_(0.01 * (mean / (1 - 0.9**step)))


@fault(
    "optimizer",
    step=3,
    phase="update",
    module="",
    op="add",
    cause="bad-learning-rate",
    source="own: a home-made schedule for LBFGS",
)
def infinite_rate_of_lbfgs(watch: Watch) -> None:
    """LBFGS, which calls the model within its step, with a rate of 1 / remaining that has become infinite."""
    torch.manual_seed(58)
    model = nn.Linear(6, 1)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=3)
    with watch(model, optimizer):
        for step, (x, y) in enumerate(regression(5)):
            optimizer.param_groups[0]["lr"] = 1 / (3 - step) if step < 3 else math.inf

            def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
                optimizer.zero_grad()
                loss = functional.mse_loss(model(x), y)
                loss.backward()
                return loss

            optimizer.step(closure)


@fault(
    "learning rate and batch size",
    step=127,
    phase="loss",
    module="",
    op="mse_loss",
    cause="bad-learning-rate",
    source="own: linear decay without an end",
)
def rate_below_zero(watch: Watch) -> None:
    """A linear decay without an end: after twenty steps the rate is negative, and the loss climbs."""
    torch.manual_seed(42)
    model = nn.Linear(6, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer):
        for step, (x, y) in enumerate(regression(132)):
            optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 20)
            optimizer.zero_grad()
            loss = functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()


@fault(
    "learning rate and batch size",
    step=2,
    phase="loss",
    module="",
    op="mse_loss",
    cause="learning-rate-divergence",
    source="own: too fast for a rate of growth to be told",
)
def broken_within_three_steps(watch: Watch) -> None:
    """A deep regression at a rate of 50: in the third step its squared error is infinite."""
    torch.manual_seed(55)
    model = mlp(6, 32, 32, 32, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=50.0)
    fit(watch, model, optimizer, regression(6), functional.mse_loss)


@fault(
    "silent constant output",
    cause=None,
    source="own: MultiStepLR with gamma=0",
    verdict="suspicious",
    rule="frozen-weights",
)
def rate_of_zero_after_a_milestone(watch: Watch) -> None:
    """MultiStepLR with gamma=0: after its milestone nothing learns any more."""
    torch.manual_seed(52)
    model = mlp(6, 16, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [20], gamma=0.0)
    with watch(model, optimizer):
        for x, y in classification(240):
            optimizer.zero_grad()
            functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            schedule.step()
