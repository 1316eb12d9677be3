"""Faults of a second round, in other styles: trainers, batches as dataclasses, states kept by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.faults.fault import Watch, fault
from tests.faults.loops import fit
from tests.faults.parts import classification, mlp, regression


class Siamese(nn.Module):
    """One encoder for both of a pair."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = mlp(5, 8, 4)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Distances, shape (pairs,)."""
        difference: Tensor = self.encoder(first) - self.encoder(second)
        return difference.pow(2).sum(dim=1).sqrt()


@fault(
    "backward only",
    step=3,
    phase="backward",
    module="",
    op="sqrt",
    sample=2,
    cause="sqrt-at-zero",
    source="https://github.com/adambielski/siamese-triplet/issues/18",
)
def pair_of_equals(watch: Watch) -> None:
    """A contrastive loss of distances: the two inputs of one pair are the same, and the root is of zero."""
    torch.manual_seed(52)
    model = Siamese()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def contrastive(distance: Tensor, same: Tensor) -> Tensor:
        return (same * distance**2 + (1 - same) * functional.relu(1 - distance) ** 2).mean()

    data = [(torch.randn(6, 5), torch.randn(6, 5), (torch.rand(6) > 0.5).float()) for _ in range(6)]
    data[3][1][2] = data[3][0][2]
    fit(watch, model, optimizer, data, contrastive)


class Denoiser(nn.Module):
    """The clean signal from a noisy one, its prediction of the noise taken away; times 0 to 19."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Embedding(20, 8)
        self.net = mlp(12, 24, 4)
        self.register_buffer("signal", torch.cos(torch.arange(20) / 19 * math.pi / 2).square())
        self.signal[19] = 0.0

    def forward(self, noisy: Tensor, time: Tensor) -> Tensor:
        """Of (rows, 4) and (rows,)."""
        share = self.signal[time].unsqueeze(1)
        noise = self.net(torch.cat([noisy, self.time(time)], dim=1))
        clean = (noisy - (1 - share).sqrt() * noise) / share.sqrt()
        return clean.clamp(-3.0, 3.0)


@fault(
    "backward only",
    step=3,
    phase="backward",
    module="",
    op="div",
    sample=4,
    cause="division-by-zero",
    source="https://arxiv.org/abs/2305.08891",
)
def no_signal_at_the_last_time(watch: Watch) -> None:
    """A diffusion schedule without signal at its end: a division by its root is clamped, its slope is not."""
    torch.manual_seed(12)
    model = Denoiser()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    data = [(torch.randn(6, 4), torch.randint(1, 18, (6,)), torch.randn(6, 4)) for _ in range(6)]
    data[3][1][4] = 19
    fit(watch, model, optimizer, data, functional.mse_loss)


class GeneralisedMean(nn.Module):
    """Pooling by (mean of x ** p) ** (1 / p), with p learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: Tensor) -> Tensor:
        """Of (rows, channels, height, width) to (rows, channels)."""
        return x.clamp(min=0).pow(self.power).mean(dim=(2, 3)).pow(1 / self.power)


@fault(
    "backward only",
    step=3,
    phase="backward",
    module="pool",
    op="pow",
    sample=2,
    cause="pow-at-zero",
    source="own: a generalised mean without eps",
)
def generalised_mean_of_a_blank_image(watch: Watch) -> None:
    """Pooling by a generalised mean: of a blank image every activation is zero, and the slope of its root."""
    torch.manual_seed(73)
    model = nn.Sequential()
    model.add_module("conv", nn.Conv2d(1, 3, 3, bias=False))
    model.add_module("pool", GeneralisedMean())
    model.add_module("head", nn.Linear(3, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    data = [(torch.rand(5, 1, 6, 6) + torch.randn(5, 1, 6, 6), torch.randint(2, (5,))) for _ in range(6)]
    data[3][0][2] = 0.0
    fit(watch, model, optimizer, data, functional.cross_entropy)


@fault(
    "data and targets",
    step=33,
    phase="loss",
    module="",
    op="mse_loss",
    cause="empty-reduction",
    verdict=("suspicious", "diverged"),
    source="own: a filter of outliers that once leaves nothing",
)
def filter_that_leaves_no_row(watch: Watch) -> None:
    """Rows are picked by a condition that none of the rows of one batch fulfils."""
    torch.manual_seed(46)
    model = mlp(6, 12, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    data = regression(40)
    data[33][0][:, 0] = -20.0
    chosen = [(x[keep], y[keep]) for x, y in data for keep in (x[:, 0] > -10,)]
    fit(watch, model, optimizer, chosen, functional.mse_loss)


@fault(
    "data and targets",
    step=3,
    phase="data",
    module="",
    op="div",
    cause="division-by-zero",
    source="own: features standardised batch by batch",
)
def third_microbatch_without_spread(watch: Watch) -> None:
    """Gradients of four microbatches are added up; in one of them a standardised feature is constant."""
    torch.manual_seed(1)
    model = mlp(5, 8, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    data = [(torch.randn(4, 5), torch.randint(3, (4,))) for _ in range(24)]
    data[3 * 4 + 2][0][:, 1] = 2.0
    with watch(model, optimizer):
        for number, (x, y) in enumerate(data):
            standardised = (x - x.mean(dim=0)) / x.std(dim=0)
            (functional.cross_entropy(model(standardised), y) / 4).backward()
            if number % 4 == 3:
                optimizer.step()
                optimizer.zero_grad()


@fault(
    "initialisation",
    step=0,
    phase="init",
    module="",
    op="parameter",
    cause="bad-parameter",
    source="own: an embedding that was loaded with a broken row",
)
def rare_token_with_a_broken_vector(watch: Watch) -> None:
    """One vector of an embedding is NaN from the start, and its token comes up at step 4 only."""
    torch.manual_seed(23)
    model = nn.Sequential(nn.Embedding(20, 8), nn.Flatten(), nn.Linear(24, 4))
    with torch.no_grad():
        model[0].weight[17, 3] = math.nan
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = [(torch.randint(16, (4, 3)), torch.randint(4, (4,))) for _ in range(7)]
    data[4][0][2, 1] = 17
    fit(watch, model, optimizer, data, functional.cross_entropy)


@dataclass
class Example:
    """What a tagger is trained on: features, which tags are possible, and the tags' scores."""

    x: Tensor
    possible: Tensor


class ChainOfTags(nn.Module):
    """The log of the sum over all paths of tags, of which some are impossible."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Linear(3, 4)
        self.transitions = nn.Parameter(torch.randn(4, 4))

    def forward(self, example: Example) -> Tensor:
        """Shape (rows,)."""
        scores = self.scores(example.x).masked_fill(~example.possible, -math.inf)
        forward: Tensor = scores[:, 0]
        for step in scores[:, 1:].unbind(dim=1):
            forward = torch.logsumexp(forward.unsqueeze(2) + self.transitions, dim=1) + step
        return torch.logsumexp(forward, dim=1)


@fault(
    "masking and attention",
    step=3,
    phase="forward",
    module="",
    op="logsumexp",
    sample=2,
    cause="fully-masked-softmax",
    source="own: a chain of tags with constraints",
)
def no_tag_is_possible(watch: Watch) -> None:
    """A conditional random field with constraints: at one place of one sentence no tag is left."""
    torch.manual_seed(60)
    model = ChainOfTags()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer):
        for step in range(6):
            possible = torch.rand(4, 5, 4) > 0.2
            possible[..., 0] = True
            if step == 3:
                possible[2, 1] = False
            optimizer.zero_grad()
            model(Example(torch.randn(4, 5, 3), possible)).mean().backward()
            optimizer.step()


class Annealed(nn.Module):
    """Divides by a temperature that falls with the number of calls."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls, self.left = calls, calls

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape."""
        temperature = torch.tensor(self.left / self.calls)
        self.left -= 1
        return x / temperature


@fault(
    "forward",
    step=12,
    phase="forward",
    module="annealed",
    op="div",
    cause="division-by-zero",
    source="own: a temperature annealed by a counter in the module",
)
def temperature_by_a_counter(watch: Watch) -> None:
    """A module counts its calls and lowers its temperature by them, down to zero."""
    torch.manual_seed(6)
    model = nn.Sequential()
    model.add_module("body", nn.Linear(6, 4))
    model.add_module("annealed", Annealed(12))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    fit(watch, model, optimizer, classification(16), functional.cross_entropy)


class Trainer:
    """Keeps a running spread of its own, by which it divides the loss."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        self.spread = torch.tensor(6.0)

    def batches(self) -> Iterator[dict[str, Tensor]]:
        """Ten of six rows."""
        for _ in range(10):
            x = torch.randn(6, 4)
            yield {"x": x, "y": x[:, :1]}

    def train(self, watch: Watch) -> None:
        """All of them."""
        with watch(self.model, self.optimizer):
            for batch in self.batches():
                loss = functional.mse_loss(self.model(batch["x"]), batch["y"]) / self.spread
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                self.spread -= 1.0


@fault(
    "loss",
    step=6,
    phase="loss",
    module="",
    op="div",
    cause="division-by-zero",
    source="own: a running spread that nobody bounds",
)
def spread_kept_by_the_trainer(watch: Watch) -> None:
    """A trainer divides its loss by a spread that it lowers in place, outside of model and optimizer."""
    torch.manual_seed(3)
    Trainer(mlp(4, 8, 1)).train(watch)
