"""Healthy programs whose numbers look dangerous: huge, tiny, zero, and branches that nobody takes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.faults.fault import Watch, healthy
from tests.faults.loops import fit
from tests.faults.parts import classification, mlp, regression


class SafeLog(nn.Module):
    """log where it is defined, 0 elsewhere, with a safe argument in both branches."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape of `x`."""
        positive = x > 0
        return torch.where(positive, torch.where(positive, x, 1.0).log(), 0.0)


@healthy("branches not taken", source="https://github.com/pytorch/pytorch/issues/52248")
def double_where(watch: Watch) -> None:
    """The safe form of a masked log: the second `where` keeps the slope finite."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), SafeLog(), nn.Linear(16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    fit(watch, model, optimizer, regression(80), functional.mse_loss)


class LogOfPositive(nn.Module):
    """log where it is defined, 0 elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape of `x`."""
        return torch.where(x > 0, x.log(), 0.0)


@healthy("branches not taken", source="https://github.com/pytorch/pytorch/issues/156212")
def single_where_on_data(watch: Watch) -> None:
    """The unsafe `where` on the inputs, which need no gradient: NaN in a branch that is never used."""
    torch.manual_seed(1)
    model = nn.Sequential(LogOfPositive(), *mlp(6, 16, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    data = [(x, x.clamp(min=0.0).sum(dim=1, keepdim=True)) for x, _ in regression(80)]
    fit(watch, model, optimizer, data, functional.mse_loss)


class Whiten(nn.Module):
    """Each unit divided by the root of its variance over the batch."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape of `x`."""
        return (x - x.mean(dim=0)) / (x.var(dim=0).sqrt() + 1e-3)


@healthy("branches not taken")
def nan_slope_stopped_by_relu(watch: Watch) -> None:
    """A dead unit has variance 0 and a NaN slope, and the ReLU before it lets no gradient of it through."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), Whiten(), nn.Linear(16, 4))
    with torch.no_grad():
        model[0].bias[3] = -100.0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fit(watch, model, optimizer, classification(80), functional.cross_entropy)


class Spread(nn.Module):
    """Divided by the standard deviation over the batch."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape of `x`."""
        return (x - x.mean(dim=0)) / (x.std(dim=0) + 1e-3)


@healthy("branches not taken")
def deviation_of_a_constant(watch: Watch) -> None:
    """`torch.std` of a constant unit is 0, and torch defines its slope there as 0."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 16), nn.Hardtanh(), Spread(), nn.Linear(16, 4))
    with torch.no_grad():
        model[0].bias[3] = 100.0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fit(watch, model, optimizer, classification(80), functional.cross_entropy)


class Scaled(nn.Module):
    """Multiplied by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Shape of `x`."""
        return x * self.factor


@healthy("huge numbers")
def norms_that_overflow(watch: Watch) -> None:
    """Activations of 1e20 are finite, the squares that a norm sums are not; the next layer scales back."""
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), Scaled(1e20), Scaled(1e-20), nn.Linear(16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    fit(watch, model, optimizer, regression(80), functional.mse_loss)


@healthy("huge numbers")
def physical_units(watch: Watch) -> None:
    """Inputs of 1e30 in SI units, and targets of 1e30; the loss is relative, nothing comes near overflow."""
    torch.manual_seed(5)
    model = nn.Linear(6, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = [(1e30 * x, 1e30 * y) for x, y in regression(80)]
    fit(watch, model, optimizer, data, lambda out, y: (out / 1e30 - y / 1e30).square().mean())


@healthy("huge numbers")
def large_gradients_clipped(watch: Watch) -> None:
    """Gradients of norm 1e8 are clipped to 1 in every step, and the model learns."""
    torch.manual_seed(6)
    model = mlp(6, 16, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with watch(model, optimizer):
        for x, y in regression(120):
            optimizer.zero_grad()
            loss = 1e8 * functional.mse_loss(model(x), y)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()


@healthy("tiny numbers")
def inputs_below_the_smallest_normal(watch: Watch) -> None:
    """Inputs of 1e-39 (subnormal in float32) are scaled up by the first layer."""
    torch.manual_seed(7)
    model = nn.Sequential(Scaled(1e30), Scaled(1e9), *mlp(6, 16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    data = [(1e-39 * x, y) for x, y in regression(80)]
    fit(watch, model, optimizer, data, functional.mse_loss)


@healthy("zeros")
def zero_probabilities_in_targets(watch: Watch) -> None:
    """KL divergence to targets with exact zeros: torch takes 0 * log(0) as 0."""
    torch.manual_seed(8)
    model = mlp(6, 16, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    data = [
        (x, 0.7 * functional.one_hot(y, 4) + 0.3 * functional.one_hot(y * 0, 4))
        for x, y in classification(80)
    ]
    fit(
        watch,
        model,
        optimizer,
        data,
        lambda out, y: functional.kl_div(out.log_softmax(dim=1), y, reduction="batchmean"),
    )


@healthy("zeros")
def entropy_of_sparse_probabilities(watch: Watch) -> None:
    """Soft labels with exact zeros, and their entropy by `torch.special.entr`, which is 0 there."""
    torch.manual_seed(9)
    model = mlp(6, 16, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    with watch(model, optimizer):
        for x, y in classification(80):
            soft = 0.8 * functional.one_hot(y, 4) + 0.2 * functional.one_hot((y + 1) % 4, 4)
            sure = 1.0 - torch.special.entr(soft).sum(dim=1)
            losses = functional.cross_entropy(model(x), soft, reduction="none")
            optimizer.zero_grad()
            (sure * losses).mean().backward()
            optimizer.step()


@healthy("zeros")
def loss_of_exactly_zero(watch: Watch) -> None:
    """A hinge loss on separable data reaches 0 exactly: no gradient, no update, and all is learnt."""
    torch.manual_seed(10)
    model = nn.Linear(6, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    direction = torch.randn(6, 1)
    data = []
    for _ in range(300):
        x = torch.randn(16, 6)
        side = (x @ direction).sign()
        data.append((x + side * direction.T, side))
    fit(watch, model, optimizer, data, lambda out, side: functional.relu(1.0 - out * side).mean())


class MeanOfKept(nn.Module):
    """Mean over the kept features, of at least one."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, 2): the mean, and how many were kept."""
        kept = (x > 1.0).float()
        count = kept.sum(dim=1, keepdim=True)
        return torch.cat([(x * kept).sum(dim=1, keepdim=True) / count.clamp(min=1.0), count], dim=1)


@healthy("zeros")
def mean_of_nothing_clamped(watch: Watch) -> None:
    """A masked mean whose divisor is at least 1: rows with nothing to average give 0."""
    torch.manual_seed(11)
    model = nn.Sequential(MeanOfKept(), *mlp(2, 16, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    data = [(x, x.clamp(min=1.0).sum(dim=1, keepdim=True)) for x, _ in regression(80)]
    fit(watch, model, optimizer, data, functional.mse_loss)


@healthy("zeros")
def unit_length_with_eps(watch: Watch) -> None:
    """`functional.normalize` of rows that are all zero: its eps keeps them zero."""
    torch.manual_seed(12)
    model = mlp(6, 16, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    data = classification(80)
    for x, _ in data:
        x[0] = 0.0
    data = [(functional.normalize(x, dim=1), y) for x, y in data]
    fit(watch, model, optimizer, data, functional.cross_entropy)


class WrittenPiecewise(nn.Module):
    """An output that is made uninitialised, and one made of NaN, and then written in full."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(features, 8), nn.Linear(features, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, 32)."""
        first = torch.empty(len(x), 16)
        first[:, :8], first[:, 8:] = self.left(x), self.right(x).tanh()
        second = x.new_full((len(x), 16), float("nan"))
        second[:, ::2], second[:, 1::2] = self.right(x), self.left(x).tanh()
        return torch.cat([first, second], dim=1)


@healthy("uninitialised memory")
def buffers_written_in_full(watch: Watch) -> None:
    """`torch.empty` and a tensor of NaN are filled piece by piece before anything reads them."""
    torch.manual_seed(13)
    model = nn.Sequential(WrittenPiecewise(6), nn.Linear(32, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    fit(watch, model, optimizer, regression(80), functional.mse_loss)


@healthy("precision")
def first_overflow_of_the_scaler(watch: Watch) -> None:
    """Float16 autocast: the scaler begins too high, skips some updates, and finds its level."""
    torch.manual_seed(14)
    model = mlp(6, 32, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)
    with watch(model, optimizer):
        for x, y in classification(80):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16):
                loss = functional.cross_entropy(model(x), y)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()


@healthy("precision")
def impossible_alignments_zeroed(watch: Watch) -> None:
    """CTC with transcripts longer than the frames: `zero_infinity=True` leaves those samples out."""
    torch.manual_seed(15)
    model = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 7))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    frames, letters = torch.tensor([12, 12, 12, 3]), torch.tensor([4, 4, 4, 9])
    targets = torch.arange(1, 7).repeat(2)[:9].repeat(4, 1)
    with watch(model, optimizer):
        for _ in range(80):
            logs = model(torch.randn(4, 12, 5)).log_softmax(dim=2).transpose(0, 1)
            loss = functional.ctc_loss(logs, targets, frames, letters, zero_infinity=True)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@healthy("precision")
def bfloat16_autocast(watch: Watch) -> None:
    """Training under bfloat16 autocast: coarse numbers, a noisy loss, and no trouble."""
    torch.manual_seed(16)
    model = nn.Sequential(nn.Linear(6, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    with watch(model, optimizer):
        for x, y in classification(80):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
