"""Faults of recurrences: many steps of one map, forwards and backwards."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.faults.fault import Watch, fault
from tests.faults.loops import fit

FAMILY = "recurrent"


def sequences(lengths: list[int], rows: int = 8, features: int = 4) -> list[tuple[Tensor, Tensor]]:
    """Per length a batch of shape (rows, length, features), and whether the mean of the first is positive."""
    inputs = [torch.randn(rows, length, features) for length in lengths]
    return [(x, (x[:, :, 0].mean(dim=1) > 0).long()) for x in inputs]


class Unrolled(nn.Module):
    """A cell applied over time; the last state, taken to a largest element of 1, goes into a linear head."""

    def __init__(self, cell: nn.Module, width: int = 12, outputs: int = 2) -> None:
        super().__init__()
        self.cell, self.width = cell, width
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, outputs) from (batch, time, features)."""
        state = x.new_zeros(len(x), self.width)
        for inputs in x.unbind(dim=1):
            state = self.cell(inputs, state)
        return self.head(state / state.abs().amax(dim=1, keepdim=True).clamp(min=1.0))


class LinearCell(nn.Module):
    """x and state through one matrix, with no activation."""

    def __init__(self, features: int, width: int, gain: float) -> None:
        super().__init__()
        self.linear = nn.Linear(features + width, width)
        nn.init.orthogonal_(self.linear.weight, gain)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        """Shape (batch, width)."""
        return self.linear(torch.cat([x, state], dim=1))


@fault(
    FAMILY,
    step=5,
    phase="forward",
    module="cell.linear",
    op="addmm",
    cause=("activation-explosion", "dtype-overflow"),
    source="https://arxiv.org/abs/1211.5063 (exploding states of linear recurrences)",
)
def longer_sequences_later(watch: Watch) -> None:
    """A linear recurrence doubles its state; a curriculum of longer sequences reaches 160 steps."""
    torch.manual_seed(0)
    model = Unrolled(LinearCell(4, 12, gain=2.2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    fit(watch, model, optimizer, sequences([5, 10, 20, 40, 50, 160, 160]), functional.cross_entropy)


class SineCell(nn.Module):
    """A bounded state: the sine of a large linear map, a chaotic recurrence."""

    def __init__(self, features: int, width: int, gain: float) -> None:
        super().__init__()
        self.inputs, self.states = nn.Linear(features, width), nn.Linear(width, width)
        nn.init.orthogonal_(self.states.weight, gain)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        """Shape (batch, width)."""
        return torch.sin(self.inputs(x) + self.states(state))


@fault(
    FAMILY,
    step=4,
    phase="backward",
    module=("cell.states", "cell", "cell.inputs"),
    op=("addmm", "mm", "sin", "linear"),
    cause="gradient-explosion",
    source="https://arxiv.org/abs/1211.5063 (exploding gradients of bounded states)",
)
def chaotic_recurrence(watch: Watch) -> None:
    """States stay within 1, but the gradient grows by 20 for each of 60 steps back in time."""
    torch.manual_seed(1)
    model = Unrolled(SineCell(4, 12, gain=40.0))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-12)
    fit(watch, model, optimizer, sequences([3, 4, 5, 6, 60, 60]), functional.cross_entropy)


class ExponentialGate(nn.Module):
    """An input gate that is an exponential, without the running maximum that keeps it in range."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.gate, self.value = nn.Linear(features, width), nn.Linear(features, width)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        """Shape (batch, width)."""
        return 0.5 * state + self.gate(x).exp() * self.value(x).tanh()


@fault(
    FAMILY,
    step=6,
    phase="forward",
    module="cell",
    op="exp",
    sample=5,
    cause="exp-overflow",
    source="https://github.com/muditbhargava66/PyxLSTM/issues/15",
)
def exponential_gate_without_stabiliser(watch: Watch) -> None:
    """One sequence has a glitch of 500 in it, and the exponential gate of the recurrence overflows."""
    torch.manual_seed(2)
    model = Unrolled(ExponentialGate(4, 12))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    batches = sequences([8] * 9)
    batches[6][0][5, 4, 1] = 500.0
    fit(watch, model, optimizer, batches, functional.cross_entropy)


@fault(
    FAMILY,
    step=3,
    phase="data",
    module="",
    op="input",
    sample=1,
    cause="bad-input",
    source="https://github.com/Element-Research/rnn/issues/187",
)
def state_carried_over_a_gap(watch: Watch) -> None:
    """A gap in one time series is NaN; the state that is carried to the next batches stays NaN for ever."""
    torch.manual_seed(3)
    model = nn.GRU(3, 8, batch_first=True)
    head = nn.Linear(8, 1)
    both = nn.ModuleDict({"gru": model, "head": head})
    optimizer = torch.optim.Adam(both.parameters(), lr=0.01)
    series = torch.randn(4, 90, 3).cumsum(dim=1) / 10
    series[1, 34] = float("nan")
    state: Tensor | None = None
    with watch(model, optimizer):
        for x in series.split(10, dim=1):
            optimizer.zero_grad()
            states, state = model(x[:, :-1], state)
            loss = functional.mse_loss(head(states), x[:, 1:, :1])
            loss.backward()
            optimizer.step()
            state = state.detach()


class Accumulator(nn.Module):
    """A memory kept from batch to batch that is multiplied by a gate above 1."""

    memory: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("memory", torch.ones(features))
        self.gate = nn.Linear(features, features)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, features): the memory's direction, times the input."""
        kept = self.memory * (10.0 + self.gate(x).mean(dim=0).exp())
        self.memory = kept.detach()
        return x * kept / kept.abs().amax()


@fault(
    FAMILY,
    step=36,
    phase="forward",
    module="0",
    op="mul",
    cause=("activation-explosion", "dtype-overflow"),
    source="own: a forget gate that is not bounded by 1",
)
def memory_without_forgetting(watch: Watch) -> None:
    """A state kept over the batches is multiplied by about 11 in each: it overflows in the 37th."""
    torch.manual_seed(4)
    model = nn.Sequential(Accumulator(4), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    batches = [(x[:, 0], y) for x, y in sequences([1] * 42)]
    fit(watch, model, optimizer, batches, functional.cross_entropy)


class Euler(nn.Module):
    """Explicit Euler steps of dx/dt = -(w x)^3, whose step is too long for large states."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, features), as it came."""
        for _ in range(12):
            x = x - 0.1 * (self.weight * x) ** 3
        return x


@fault(
    FAMILY,
    step=5,
    phase="forward",
    module="0",
    op=("pow", "mul"),
    sample=6,
    cause=("activation-explosion", "dtype-overflow"),
    source="own: a neural ODE with a fixed step on a stiff problem",
)
def euler_steps_too_long(watch: Watch) -> None:
    """An explicit solver is unstable for one large initial state: it overshoots by more in each step."""
    torch.manual_seed(5)
    model = nn.Sequential(Euler(4), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    batches = [(x[:, 0].clamp(-2, 2), y) for x, y in sequences([1] * 9)]
    batches[5][0][6, 2] = 7.0
    fit(watch, model, optimizer, batches, functional.cross_entropy)


@fault(
    FAMILY,
    step=4,
    phase="loss",
    module="",
    op="ctc_loss",
    sample=3,
    cause="bad-target",
    source="https://github.com/pytorch/pytorch/pull/16199",
)
def transcript_longer_than_the_audio(watch: Watch) -> None:
    """CTC: one transcript has 9 letters for 6 frames, no alignment exists, and its loss is infinite."""
    torch.manual_seed(6)
    model = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 7))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    frames = torch.full((4,), 12)
    with watch(model, optimizer):
        for step in range(8):
            letters = torch.full((4,), 4)
            spoken = frames.clone()
            if step == 4:
                letters[3], spoken[3] = 9, 6
            targets = torch.randint(1, 7, (4, 9))
            logs = model(torch.randn(4, 12, 5)).log_softmax(dim=2).transpose(0, 1)
            loss = functional.ctc_loss(logs, targets, spoken, letters)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
