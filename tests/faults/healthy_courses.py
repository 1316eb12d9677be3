"""Healthy trainings whose course looks dangerous: spikes, swings, growth, one class at a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LambdaLR

from tests.faults.fault import Watch, healthy
from tests.faults.loops import fit
from tests.faults.parts import classification, mlp, regression


@healthy("noisy course")
def spikes_of_outliers(watch: Watch) -> None:
    """Every twentieth batch holds an outlier: the loss jumps, the gradient is clipped, and it converges."""
    torch.manual_seed(0)
    model = mlp(6, 16, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = regression(300)
    for _, y in data[::20]:
        y[0] += 60.0
    with watch(model, optimizer):
        for x, y in data:
            optimizer.zero_grad()
            loss = functional.mse_loss(model(x), y)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()


@healthy("noisy course")
def two_players(watch: Watch) -> None:
    """A generator and a discriminator in turn: both losses go up and down, and the samples come to fit."""
    torch.manual_seed(1)
    model = nn.ModuleDict({"generator": mlp(2, 16, 2), "discriminator": mlp(2, 16, 1)})
    generator, discriminator = model["generator"], model["discriminator"]
    first = torch.optim.Adam(generator.parameters(), lr=0.005, betas=(0.5, 0.99))
    second = torch.optim.Adam(discriminator.parameters(), lr=0.005, betas=(0.5, 0.99))
    with watch(model, (second, first)):
        for _ in range(150):
            real, drawn = torch.randn(32, 2) + 2.0, generator(torch.randn(32, 2))
            second.zero_grad()
            right = functional.softplus(-discriminator(real)) + functional.softplus(
                discriminator(drawn.detach())
            )
            right.mean().backward()
            second.step()
            first.zero_grad()
            functional.softplus(-discriminator(drawn)).mean().backward()
            first.step()


@healthy("noisy course")
def policy_gradient(watch: Watch) -> None:
    """REINFORCE on a bandit: the loss has either sign and means nothing, the reward rises."""
    torch.manual_seed(2)
    model = mlp(3, 16, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with watch(model, optimizer):
        for _ in range(200):
            states = torch.randn(16, 3)
            logs = model(states).log_softmax(dim=1)
            actions = torch.multinomial(logs.exp(), 1)[:, 0]
            rewards = states.gather(1, actions[:, None])[:, 0] * 5.0
            loss = -(rewards * logs[torch.arange(16), actions]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@healthy("noisy course")
def gradient_penalty(watch: Watch) -> None:
    """A critic whose gradient is held at length 1, by a loss with second derivatives."""
    torch.manual_seed(3)
    model = mlp(2, 16, 1, activation=nn.Softplus)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    with watch(model, optimizer):
        for _ in range(100):
            near, far = torch.randn(16, 2), torch.randn(16, 2) + 3.0
            between = near.lerp(far, torch.rand(16, 1)).requires_grad_()
            (slope,) = torch.autograd.grad(model(between).sum(), between, create_graph=True)
            penalty = (slope.norm(dim=1) - 1.0).square().mean()
            loss = model(near).mean() - model(far).mean() + 10.0 * penalty
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@healthy("schedule")
def warm_restarts(watch: Watch) -> None:
    """A cosine schedule with restarts: the loss jumps up with the rate every 40 steps."""
    torch.manual_seed(4)
    model = mlp(6, 16, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    scheduler = CosineAnnealingWarmRestarts(optimizer, T_0=40)
    with watch(model, optimizer):
        for x, y in classification(240):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            scheduler.step()


@healthy("schedule")
def warm_up_from_zero(watch: Watch) -> None:
    """The learning rate is exactly 0 in the first step, and small for a while."""
    torch.manual_seed(5)
    model = mlp(6, 16, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    scheduler = LambdaLR(optimizer, lambda step: min(1.0, step / 60))
    with watch(model, optimizer):
        for x, y in classification(160):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            scheduler.step()


@healthy("regularisation")
def heavy_dropout(watch: Watch) -> None:
    """Dropout of 90 %: most activations are zero in every step, each in some."""
    torch.manual_seed(6)
    model = nn.Sequential(nn.Linear(6, 128), nn.ReLU(), nn.Dropout(0.9), nn.Linear(128, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    fit(watch, model, optimizer, classification(240), functional.cross_entropy)


@healthy("regularisation")
def decay_of_a_useless_branch(watch: Watch) -> None:
    """A branch whose input is always 0 only decays: its weights go to 0 geometrically, and that is right."""
    torch.manual_seed(7)
    model = nn.Bilinear(6, 3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=0.2)
    data = [(x, torch.tensor([[1.0, 0.0, 0.0]]).repeat(len(x), 1), y) for x, y in regression(240)]
    fit(watch, model, optimizer, data, functional.mse_loss)


@healthy("growing weights")
def separable_classes(watch: Watch) -> None:
    """Logistic regression on separable data: the weights grow for ever, ever more slowly."""
    torch.manual_seed(8)
    model = nn.Linear(6, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=5.0)
    data = [(8.0 * functional.one_hot(y, 6) + 0.1 * x, y) for x, y in classification(300)]
    fit(watch, model, optimizer, data, functional.cross_entropy)


@healthy("growing weights")
def escape_from_a_saddle(watch: Watch) -> None:
    """A deep linear network starts at 1e-3: its weights grow geometrically off the saddle, then settle."""
    torch.manual_seed(9)
    model = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(2)))
    for layer in model:
        nn.init.eye_(layer.weight)
        with torch.no_grad():
            layer.weight.mul_(1e-3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    data = [(x, 1.5 * x) for x in torch.randn(240, 16, 4)]
    fit(watch, model, optimizer, data, functional.mse_loss)


@healthy("labels")
def sorted_by_class(watch: Watch) -> None:
    """The data is sorted: each batch holds one class, and the predictions follow it."""
    torch.manual_seed(10)
    model = mlp(6, 16, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.005)
    x, y = classification(1, rows=4800)[0]
    order = torch.randperm(len(x))
    batches = []
    for begin in range(0, 4800, 64):
        part = order[begin : begin + 64]
        batches += [(x[rows], y[rows]) for label in range(4) if len(rows := part[y[part] == label])]
    fit(watch, model, optimizer, batches, functional.cross_entropy)


@healthy("labels")
def rare_class_learnt(watch: Watch) -> None:
    """96 % of the labels are one class, most predictions too, and the rare one is learnt all the same."""
    torch.manual_seed(11)
    model = mlp(6, 16, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    data = []
    for _ in range(300):
        y = (torch.rand(32) < 0.04).long()
        data.append((torch.randn(32, 6) + 4.0 * y[:, None], y))
    fit(watch, model, optimizer, data, functional.cross_entropy)


@healthy("labels")
def smoothed_labels(watch: Watch) -> None:
    """Label smoothing of 0.4: the loss stays high by construction."""
    torch.manual_seed(12)
    model = mlp(6, 16, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    smoothed = nn.CrossEntropyLoss(label_smoothing=0.4)
    fit(watch, model, optimizer, classification(240), smoothed)


@healthy("zeros")
def some_relus_die(watch: Watch) -> None:
    """A third of the ReLUs is dead from the beginning, and the others are enough."""
    torch.manual_seed(13)
    model = mlp(6, 48, 4)
    with torch.no_grad():
        model[0].bias[::3] = -60.0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fit(watch, model, optimizer, classification(240), functional.cross_entropy)


@healthy("zeros")
def last_layer_starts_at_zero(watch: Watch) -> None:
    """The last layer is initialised with zeros: all logits are equal in the first step, and no other."""
    torch.manual_seed(14)
    model = mlp(6, 16, 4)
    nn.init.zeros_(model[2].weight)
    nn.init.zeros_(model[2].bias)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fit(watch, model, optimizer, classification(160), functional.cross_entropy)


@healthy("zeros")
def sparse_embedding(watch: Watch) -> None:
    """Sparse gradients of an embedding: most rows of the table have none in most steps."""
    torch.manual_seed(15)
    model = nn.Sequential(nn.EmbeddingBag(200, 8, mode="sum", sparse=True), nn.Linear(8, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    words = torch.randint(50, (160, 16, 5))
    data = [(each + 50 * (labels := torch.randint(4, (16, 1))), labels[:, 0]) for each in words]
    fit(watch, model, optimizer, data, functional.cross_entropy)


@healthy("growing weights")
def averaged_copy(watch: Watch) -> None:
    """An exponential average of the weights is kept beside the training, and read now and then."""
    torch.manual_seed(16)
    model = mlp(6, 16, 4)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    with watch(model, optimizer):
        for step, (x, y) in enumerate(classification(160)):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            average.update_parameters(model)
            if step % 40 == 39:
                with torch.no_grad():
                    average(x)


class Oscillator(nn.Module):
    """A phase and an amplitude, in which the loss is periodic."""

    def __init__(self) -> None:
        super().__init__()
        self.phase = nn.Parameter(torch.tensor(0.3))
        self.amplitude = nn.Parameter(torch.tensor(0.1))

    def forward(self, time: Tensor) -> Tensor:
        """Shape of `time`."""
        return self.amplitude * torch.sin(2.0 * math.pi * time + self.phase)


@healthy("noisy course")
def momentum_overshoots(watch: Watch) -> None:
    """Momentum of 0.97: the loss swings up and down around the minimum for a long time, ever less."""
    torch.manual_seed(17)
    model = Oscillator()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.97)
    data = [(time, 2.0 * torch.sin(2.0 * math.pi * time + 1.0)) for time in torch.rand(300, 16)]
    fit(watch, model, optimizer, data, functional.mse_loss)
