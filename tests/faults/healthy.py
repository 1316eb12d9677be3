"""Healthy programs with infinities and NaN by design: masks, limits, gaps that are filled."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.faults.fault import Watch, healthy
from tests.faults.loops import Attention, Reader, fit, sentences
from tests.faults.parts import classification, mlp, regression


@healthy("infinite masks")
def causal_mask(watch: Watch) -> None:
    """Attention with -inf above the diagonal; every position sees itself at least."""
    torch.manual_seed(0)
    model = Reader(Attention(6), 6, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    causal = torch.ones(5, 5).triu(diagonal=1).bool()
    batches = [(x, causal, y) for x, _, y in sentences(60)]
    fit(watch, model, optimizer, batches, functional.cross_entropy)


@healthy("infinite masks")
def padding_mask(watch: Watch) -> None:
    """Attention over sentences of different lengths, with -inf at the padding."""
    torch.manual_seed(1)
    model = Reader(Attention(6), 6, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    fit(watch, model, optimizer, sentences(60), functional.cross_entropy)


class SmallestMasks(nn.Module):
    """Attention with two additive masks of the smallest float32: their sum is -inf."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score, self.value = nn.Linear(width, 1), nn.Linear(width, width)

    def forward(self, x: Tensor, blocked: Tensor) -> Tensor:
        """Shape (batch, time, width)."""
        smallest = torch.finfo(torch.float32).min
        scores = self.score(x).transpose(1, 2) + blocked * smallest + blocked * smallest
        return scores.softmax(dim=2) @ self.value(x)


@healthy("infinite masks", source="https://github.com/huggingface/transformers/pull/17306")
def two_finite_masks_overflow(watch: Watch) -> None:
    """Two finite masks add up to -inf at the padding, which softmax turns into 0 as was wanted."""
    torch.manual_seed(2)
    model = Reader(SmallestMasks(6), 6, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    fit(watch, model, optimizer, sentences(60), functional.cross_entropy)


class FusedAttention(nn.Module):
    """Torch's fused attention, which gives zeros where a whole row is masked."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor, blocked: Tensor) -> Tensor:
        """Shape (batch, time, width)."""
        query, key, value = (part[:, None] for part in self.project(x).chunk(3, dim=2))
        seen = ~blocked[:, None].expand(-1, -1, x.shape[1], -1)
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)[:, 0]


@healthy("infinite masks", source="https://github.com/pytorch/pytorch/pull/131060")
def fully_masked_rows_of_fused_attention(watch: Watch) -> None:
    """Some sentences are empty, and `scaled_dot_product_attention` gives zeros for them, with slope 0."""
    torch.manual_seed(3)
    model = Reader(FusedAttention(6), 6, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    batches = sentences(80)
    for _, blocked, y in batches:
        blocked[y == 0] = True
    fit(watch, model, optimizer, batches, functional.cross_entropy)


@healthy("infinite masks")
def top_k_sampling(watch: Watch) -> None:
    """A policy samples from its two best actions, the others get -inf; the gradient is that of the sample."""
    torch.manual_seed(4)
    model = mlp(4, 16, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    with watch(model, optimizer):
        for _ in range(120):
            states = torch.randn(16, 4)
            logits = model(states)
            least = logits.topk(2, dim=1).values[:, -1:]
            kept = logits.masked_fill(logits < least, float("-inf"))
            actions = torch.multinomial(kept.softmax(dim=1), 1)
            rewards = (actions[:, 0] == states.argmax(dim=1)).float() - 0.5
            loss = -(rewards * kept.log_softmax(dim=1).gather(1, actions)[:, 0]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@healthy("infinite masks")
def contrastive_diagonal(watch: Watch) -> None:
    """A contrastive loss takes each sample out of its own competitors with -inf on the diagonal."""
    torch.manual_seed(5)
    model = mlp(8, 16, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    partner = torch.arange(16).roll(8)
    itself = torch.eye(16, dtype=torch.bool)
    with watch(model, optimizer):
        for _ in range(60):
            x = torch.randn(8, 8)
            views = torch.cat([x + 0.1 * torch.randn_like(x), x + 0.1 * torch.randn_like(x)])
            points = functional.normalize(model(views), dim=1)
            likeness = (points @ points.T / 0.2).masked_fill(itself, float("-inf"))
            loss = functional.cross_entropy(likeness, partner)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


class Chain(nn.Module):
    """Log-likelihood of sequences under a hidden Markov chain that starts in its first state for certain."""

    start: Tensor

    def __init__(self, states: int, symbols: int) -> None:
        super().__init__()
        self.moves = nn.Parameter(torch.randn(states, states))
        self.signs = nn.Parameter(torch.randn(states, symbols))
        self.register_buffer("start", torch.full((states,), float("-inf")))
        self.start[0] = 0.0

    def forward(self, symbols: Tensor) -> Tensor:
        """Shape (batch,) from (batch, time)."""
        moves, signs = self.moves.log_softmax(dim=1), self.signs.log_softmax(dim=1)
        alpha = self.start + signs[:, symbols[:, 0]].T
        for each in symbols.T[1:]:
            alpha = torch.logsumexp(alpha[:, :, None] + moves, dim=1) + signs[:, each].T
        return alpha.logsumexp(dim=1)


@healthy("infinities by design")
def impossible_start_states(watch: Watch) -> None:
    """A buffer holds log(0) = -inf for the states in which a chain cannot begin."""
    torch.manual_seed(6)
    model = Chain(3, 5)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    batches = [(torch.arange(6).repeat(8, 1).add(torch.randint(2, (8, 1))) % 3, torch.ones(8))] * 60
    fit(watch, model, optimizer, batches, lambda logs, _: -logs.mean())


class Capped(nn.Module):
    """Features cut off at limits; infinity where there is none."""

    limits: Tensor

    def __init__(self, limits: list[float]) -> None:
        super().__init__()
        self.register_buffer("limits", torch.tensor(limits))

    def forward(self, x: Tensor) -> Tensor:
        """Shape of `x`."""
        return torch.minimum(x, self.limits)


@healthy("infinities by design")
def infinity_as_no_limit(watch: Watch) -> None:
    """A buffer of limits holds inf where a feature has none."""
    torch.manual_seed(7)
    model = nn.Sequential(Capped([2.0, torch.inf, torch.inf, 1.0, torch.inf, 3.0]), *mlp(6, 16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    fit(watch, model, optimizer, regression(80), functional.mse_loss)


@healthy("infinities by design")
def running_minimum_from_infinity(watch: Watch) -> None:
    """Distances to the nearest of several learnt centres, found by a minimum that starts at infinity."""
    torch.manual_seed(8)
    model = nn.Linear(3, 5, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    places = torch.randn(5, 3)
    with watch(model, optimizer):
        for _ in range(80):
            x = places[torch.randint(5, (16,))] + 0.05 * torch.randn(16, 3)
            nearest = torch.full((16,), torch.inf)
            inner = model(x)
            for column, centre in zip(inner.T, model.weight, strict=True):
                squares = x.square().sum(dim=1) - 2 * column + centre.square().sum()
                nearest = torch.minimum(nearest, squares)
            loss = nearest.mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@healthy("gaps in the data")
def missing_targets_left_out(watch: Watch) -> None:
    """A third of the targets is NaN and is taken out by a mask before the loss."""
    torch.manual_seed(9)
    model = mlp(6, 16, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    data = regression(80)
    with watch(model, optimizer):
        for x, y in data:
            targets = y.masked_fill(torch.rand_like(y) < 0.3, float("nan"))
            known = ~targets.isnan()
            loss = functional.mse_loss(model(x)[known], targets[known])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


class FillGaps(nn.Module):
    """A learnt value for every feature where it is missing."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.usual = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        """Shape of `x`."""
        return torch.where(x.isnan(), self.usual, x)


@healthy("gaps in the data")
def missing_inputs_filled(watch: Watch) -> None:
    """The model's input holds NaN, and its first layer puts learnt values there."""
    torch.manual_seed(10)
    model = nn.Sequential(FillGaps(6), *mlp(6, 16, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    data = [(x.masked_fill(torch.rand_like(x) < 0.1, float("nan")), y) for x, y in classification(80)]
    fit(watch, model, optimizer, data, functional.cross_entropy)


@healthy("gaps in the data")
def nan_to_num_of_ratios(watch: Watch) -> None:
    """Features are ratios of counts; 0 / 0 means no events, and `nan_to_num` makes it 0."""
    torch.manual_seed(11)
    model = mlp(4, 16, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with watch(model, optimizer):
        for _ in range(80):
            hits = torch.randint(0, 4, (16, 4)).float()
            tries = hits * torch.randint(1, 3, (16, 4))
            ratios = (hits / tries).nan_to_num(nan=0.0)
            loss = functional.mse_loss(model(ratios), ratios.sum(dim=1, keepdim=True))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@healthy("gaps in the data")
def a_broken_batch_skipped(watch: Watch) -> None:
    """Two batches hold NaN; the loop looks at the loss and goes on without an update."""
    torch.manual_seed(12)
    model = mlp(6, 16, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    data = regression(60)
    for number in (20, 41):
        data[number][0][3] = float("nan")
    with watch(model, optimizer):
        for x, y in data:
            loss = functional.mse_loss(model(x), y)
            if not loss.isfinite():
                continue
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@healthy("gaps in the data")
def evaluation_on_nan(watch: Watch) -> None:
    """Between the steps the model is evaluated on a set with NaN in it; training never sees those."""
    torch.manual_seed(13)
    model = mlp(6, 16, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    held_out = torch.randn(32, 6)
    held_out[5, 2] = float("nan")
    with watch(model, optimizer):
        for step, (x, y) in enumerate(regression(60)):
            optimizer.zero_grad()
            loss = functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
            if step % 10 == 9:
                model.eval()
                with torch.no_grad():
                    model(held_out).nanmean()
                model.train()
