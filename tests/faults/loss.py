"""Faults in the loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.faults.fault import Watch, fault
from tests.faults.parts import classification, mlp, regression


@fault(
    "loss",
    step=5,
    phase="loss",
    module="",
    op="log",
    sample=3,
    cause="log-of-zero",
    source="GRIST (Yan et al., ESEC/FSE 2021): log of softmax in hand-written cross-entropies",
)
def log_of_softmax(watch: Watch) -> None:
    """A hand-written cross-entropy takes the log of a softmax that underflowed to 0 for one outlier."""
    torch.manual_seed(0)
    model = mlp(6, 16, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    data = classification(12)
    x, y = data[5]
    x[3] = 4000.0 * x[3].sign()
    with torch.no_grad():
        y[3] = model(x[3:4]).argmin()
    with watch(model, optimizer):
        for x, y in data:
            optimizer.zero_grad()
            probabilities = model(x).softmax(dim=1)
            loss = -probabilities[torch.arange(len(y)), y].log().mean()
            loss.backward()
            optimizer.step()


@fault(
    "loss",
    step=4,
    phase="loss",
    module="",
    op="log",
    cause="log-of-zero",
    sample=6,
    source="GRIST (Yan et al., ESEC/FSE 2021): log(1 - D(x)) in the discriminator loss",
)
def log_of_one_minus_sigmoid(watch: Watch) -> None:
    """The other half of a binary cross-entropy: 1 - sigmoid is exactly 0 in float32 from about 17 on."""
    torch.manual_seed(1)
    model = mlp(5, 12, 1, activation=nn.Tanh)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    batches = [torch.randn(10, 5) for _ in range(9)]
    with watch(model, optimizer):
        for number, fake in enumerate(batches):
            optimizer.zero_grad()
            sharpness = torch.ones(10, 1)
            if number == 4:
                sharpness[6] = 1e4
            score = model(fake).abs() * sharpness
            loss = -torch.log(1 - torch.sigmoid(score)).mean()
            loss.backward()
            optimizer.step()


@fault(
    "loss",
    step=3,
    phase="loss",
    module="",
    op="exp",
    cause="exp-overflow",
    sample=2,
    source="own: Gaussian likelihood with a log-variance head",
)
def precision_of_a_log_variance(watch: Watch) -> None:
    """A heteroscedastic regression divides by exp(log-variance): at a log-variance of -300 it overflows."""
    torch.manual_seed(2)
    model = mlp(6, 16, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    data = regression(8)
    with torch.no_grad():
        x = data[3][0]
        direction = torch.autograd.functional.jacobian(lambda row: model(row)[1], x[2])
        x[2] -= 1500.0 * direction / direction.norm()
    with watch(model, optimizer):
        for x, y in data:
            optimizer.zero_grad()
            mean, log_variance = model(x).unbind(1)
            loss = (torch.exp(-log_variance) * (y[:, 0] - mean) ** 2 + log_variance).mean()
            loss.backward()
            optimizer.step()


@fault(
    "loss",
    step=6,
    phase="loss",
    module="",
    op="div",
    cause="division-by-zero",
    sample=None,
    source="own: hand-written Dice loss without smoothing",
)
def dice_without_smoothing(watch: Watch) -> None:
    """A Dice loss over hard predictions: with neither a predicted nor a true positive it is 0 / 0."""
    torch.manual_seed(3)
    model = mlp(6, 8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    data = [(x, (y > 0).float()) for x, y in regression(10)]
    data[6] = (data[6][0], torch.zeros(16, 1))
    with watch(model, optimizer):
        for x, y in data:
            optimizer.zero_grad()
            scores = functional.relu(model(x)) * y
            dice = 2 * (scores * y).sum() / (scores.sum() + y.sum())
            loss = 1 - dice
            loss.backward()
            optimizer.step()


@fault(
    "loss",
    step=2,
    phase="loss",
    module="",
    op="mean",
    cause="empty-reduction",
    verdict=("diverged", "suspicious"),
    sample=None,
    source="https://github.com/pytorch/pytorch/issues/51910 (losses over nothing)",
)
def mean_of_nothing(watch: Watch) -> None:
    """A loss over the labelled rows only: a batch without a labelled row has the mean of nothing."""
    torch.manual_seed(4)
    model = mlp(6, 16, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    data = classification(8)
    labelled = [torch.rand(16) > 0.5 for _ in data]
    labelled[2] = torch.zeros(16, dtype=torch.bool)
    with watch(model, optimizer):
        for (x, y), known in zip(data, labelled, strict=True):
            optimizer.zero_grad()
            each = functional.cross_entropy(model(x), y, reduction="none")
            loss = each[known].mean()
            loss.backward()
            optimizer.step()


@fault(
    "loss",
    step=3,
    phase="loss",
    module="",
    op=("nll_loss", "nll_loss_forward"),
    cause="empty-reduction",
    verdict=("diverged", "suspicious"),
    sample=None,
    source="https://github.com/pytorch/pytorch/issues/75181: cross_entropy, every target is ignore_index",
)
def every_target_ignored(watch: Watch) -> None:
    """Every label of one batch is padding: cross_entropy divides a sum over nothing by a count of 0."""
    torch.manual_seed(5)
    model = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 20))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [torch.randint(1, 20, (4, 7)) for _ in range(8)]
    with watch(model, optimizer):
        for number, tokens in enumerate(batches):
            targets = torch.full_like(tokens, -100) if number == 3 else tokens.roll(-1, 1)
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
            loss.backward()
            optimizer.step()


def variance(x: Tensor) -> Tensor:
    """Mean of the squares less the square of the mean."""
    return (x**2).mean() - x.mean() ** 2


def unlucky_offset(x: Tensor) -> float:
    """The first of many large offsets at which rounding makes the variance negative."""
    return next(o for o in torch.arange(5000.0, 6000.0, 0.7).tolist() if variance(x + o) < 0)


@fault(
    "loss",
    step=5,
    phase="loss",
    module="",
    op="sqrt",
    cause="domain-error",
    sample=None,
    source="GRIST (Yan et al., ESEC/FSE 2021): variance as E[x^2] - E[x]^2",
)
def variance_by_difference(watch: Watch) -> None:
    """A penalty on the spread: E[x^2] - E[x]^2 of large, nearly equal outputs comes out negative."""
    torch.manual_seed(6)
    model = mlp(4, 8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    data = regression(8, features=4)
    with watch(model, optimizer):
        for number, (x, y) in enumerate(data):
            optimizer.zero_grad()
            output = model(x)
            offset = unlucky_offset(1e-3 * output.detach()) if number == 5 else 0.0
            around = 1e-3 * output + offset
            spread = torch.sqrt(variance(around))
            loss = functional.mse_loss(output, y) + spread
            loss.backward()
            optimizer.step()
