"""Healthy programs whose models look dangerous: parts without rows or gradients, numbers beyond float32."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.faults.fault import Watch, healthy
from tests.faults.loops import fit
from tests.faults.parts import classification, mlp, regression


class Packed(nn.Module):
    """A recurrent reader of sequences of different lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.reader, self.head = nn.GRU(3, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Of (rows, time, 3) and (rows,)."""
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.head(self.reader(packed)[1][-1])  # type: ignore[no-any-return]


@healthy("masks by design")
def padding_of_nan(watch: Watch) -> None:
    """Sequences are padded with NaN, which packing leaves out."""
    torch.manual_seed(4)
    model = Packed()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    lengths, labels = torch.tensor([5, 3, 4, 2]), torch.tensor([0, 1, 0, 1])
    padding = torch.arange(5) >= lengths.unsqueeze(1)
    x = [(labels.view(-1, 1, 1) + 0.3 * torch.randn(4, 5, 3)) for _ in range(30)]
    data = [(each.masked_fill(padding.unsqueeze(2), math.nan), lengths, labels) for each in x]
    fit(watch, model, optimizer, data, functional.cross_entropy)


class Scale(nn.Module):
    """Times a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape."""
        return x * self.factor


@healthy("huge but finite")
def doubles_beyond_single_precision(watch: Watch) -> None:
    """In double precision an activation of 1e80 is an ordinary number."""
    torch.manual_seed(28)
    model = nn.Sequential(nn.Linear(6, 8), Scale(1e80), Scale(1e-80), nn.Linear(8, 1)).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    data = [(x.double(), y.double()) for x, y in regression(60)]
    fit(watch, model, optimizer, data, functional.mse_loss)


class Experts(nn.Module):
    """Each row goes to the two of six experts that a gate prefers."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(6, 6)
        self.experts = nn.ModuleList(nn.Linear(6, 4) for _ in range(6))

    def forward(self, x: Tensor) -> Tensor:
        """Shape (rows, 4)."""
        scores = self.gate(x)
        values, chosen = scores.topk(2)
        weights = torch.full_like(scores, -math.inf).scatter(1, chosen, values).softmax(dim=1)
        out = x.new_zeros(len(x), 4)
        for weight, expert in zip(weights.unbind(dim=1), self.experts, strict=True):
            rows = (weight > 0).nonzero().squeeze(1)
            out = out.index_add(0, rows, weight[rows, None] * expert(x[rows]))
        return out


@healthy("masks by design")
def experts_without_rows(watch: Watch) -> None:
    """A mixture of experts on small batches: some experts are given nothing, and learn nothing then."""
    torch.manual_seed(22)
    model = Experts()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    fit(watch, model, optimizer, classification(60, rows=4), functional.cross_entropy)


class Probe(nn.Module):
    """A body that is used as it is, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = mlp(6, 16, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (rows, 4)."""
        with torch.no_grad():
            seen = self.body(x)
        return self.head(seen)  # type: ignore[no-any-return]


@healthy("frozen on purpose")
def linear_probe(watch: Watch) -> None:
    """Only the head is trained, and only the head is in the optimizer."""
    torch.manual_seed(17)
    model = Probe()
    optimizer = torch.optim.Adam(model.head.parameters(), lr=0.05)
    fit(watch, model, optimizer, classification(150), functional.cross_entropy)


@healthy("frozen on purpose")
def pooler_that_no_loss_reads(watch: Watch) -> None:
    """A second head runs in every pass and is in the optimizer, but this task does not use it."""
    torch.manual_seed(38)
    body, pooler, head = mlp(6, 16, 8), nn.Linear(8, 8), nn.Linear(8, 4)
    model = nn.ModuleDict({"body": body, "pooler": pooler, "head": head})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer):
        for x, y in classification(150):
            seen = body(x).relu()
            pooler(seen)
            optimizer.zero_grad()
            functional.cross_entropy(head(seen), y).backward()
            optimizer.step()
