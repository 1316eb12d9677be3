"""Where the samples of a batch lie, and which of them is to blame, also where time comes first."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

import nanscope
from nanscope.recording.rewind.batch import Batch, batch_of
from tests.rewind.loops import only

TIME, ROWS, FEATURES = 6, 5, 3
BAD, ROW, WHEN = 2, 3, 4


def test_the_samples_of_a_tensor() -> None:
    """Along the batch's own dimension, or the first; none where no dimension has their number."""
    batch = Batch(ROWS, axis=1)
    x = torch.zeros(TIME, ROWS, FEATURES)
    x[WHEN, ROW, 1] = torch.inf
    assert batch.broken(x) == [ROW]
    assert batch.broken(x[WHEN]) == [ROW]
    assert batch.broken(x[:, ROW]) == []
    assert batch.broken(torch.tensor(torch.nan)) == []
    assert Batch(TIME).broken(x) == [WHEN]
    assert batch.broken(torch.ones(ROWS, dtype=torch.int64)) == []


def test_others_in_their_place() -> None:
    """The shape stays, the samples left out are gone, the rest stays where it was."""
    x = torch.arange(TIME * ROWS).reshape(TIME, ROWS)
    without = Batch(ROWS, axis=1).without(x, [ROW])
    assert without.shape == x.shape
    assert torch.equal(without[:, :ROW], x[:, :ROW])
    assert not any(torch.equal(column, x[:, ROW]) for column in without.T)
    unrelated = torch.zeros(2)
    assert Batch(ROWS).without(unrelated, [ROW]) is unrelated
    leaf = torch.zeros(ROWS, requires_grad=True)
    assert Batch(ROWS).without(leaf, [0]).requires_grad


class Recurrent(nn.Module):
    """A recurrent layer that takes time first, with a head for each moment."""

    def __init__(self, *, turned: bool = False, batch_first: bool = False) -> None:
        super().__init__()
        self.cell = nn.GRU(FEATURES, 4, batch_first=batch_first)
        self.head = nn.Linear(4, 1)
        self.turned = turned

    def forward(self, x: Tensor) -> Tensor:
        """Scores, shape (time, batch, 1), or as it came."""
        hidden, _ = self.cell(x.transpose(0, 1) if self.turned else x)
        result: Tensor = self.head(hidden)
        return result.transpose(0, 1) if self.turned else result


class Attentive(nn.Module):
    """Attention over time, which comes first."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(FEATURES, 1)
        self.head = nn.Linear(FEATURES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scores, shape (time, batch, 1)."""
        mixed, _ = self.attention(query=x, key=x, value=x, need_weights=False)
        result: Tensor = self.head(mixed)
        return result


TIME_FIRST = torch.zeros(TIME, ROWS, FEATURES)
CASES: dict[str, tuple[nn.Module, Tensor, Batch]] = {
    "time first": (Recurrent(), TIME_FIRST, Batch(ROWS, 1)),
    "attention": (Attentive(), TIME_FIRST, Batch(ROWS, 1)),
    "as many moments as samples": (Recurrent(), torch.zeros(ROWS, ROWS, FEATURES), Batch(ROWS, 1)),
    "turned by the model": (Recurrent(turned=True), TIME_FIRST.transpose(0, 1), Batch(ROWS, 0)),
    "batch first": (Recurrent(batch_first=True), TIME_FIRST.transpose(0, 1), Batch(ROWS, 0)),
    "no such module": (nn.Linear(FEATURES, 1), TIME_FIRST.transpose(0, 1), Batch(ROWS, 0)),
}


@pytest.mark.parametrize("name", CASES)
def test_where_the_samples_lie(name: str) -> None:
    """By what the modules that take time first were given; their hooks are gone afterwards."""
    model, x, expected = CASES[name]
    assert batch_of(model, [x], x.shape[0], lambda: model(x)) == expected
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_step_that_cannot_be_executed() -> None:
    """What was seen before it failed is enough; with nothing seen the first dimension stands."""
    model = Recurrent()

    def fails() -> None:
        raise ValueError("no")

    assert batch_of(model, [TIME_FIRST], TIME, fails) == Batch(TIME)
    assert batch_of(model, [], 0, fails) == Batch(0)


def _train(model: nn.Module, optimizer: Optimizer, bad: Tensor, target: Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    for step in range(BAD + 1):
        x, y = torch.randn(bad.shape, generator=generator), torch.ones(target.shape)
        x, y = (x * bad, y * target) if step == BAD else (x, y)
        optimizer.zero_grad()
        (torch.log(y) - model(x)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("in_input", [True, False])
def test_the_sample_of_a_sequence(tmp_path: Path, in_input: bool) -> None:
    """The column of the batch, not the moment; checked by leaving that column out."""
    bad, target = torch.ones(TIME, ROWS, FEATURES), torch.ones(TIME, ROWS, 1)
    if in_input:
        bad[WHEN, ROW, 1] = torch.nan
    else:
        target[WHEN, ROW] = 0.0
    model = Recurrent()
    optimizer = SGD(model.parameters(), lr=0.01)
    with nanscope.record(model, optimizer, tmp_path / "run.h5", verify_remedies=True):
        _train(model, optimizer, bad, target)
    run = nanscope.open_run(tmp_path / "run.h5")
    event = only(run, "origin")
    assert (event["samples"], event["rows"], event["axis"]) == ([ROW], ROWS, 1)
    if not in_input:
        assert event["samples_checked"] is True
    tried = {each["id"]: each["outcome"] for each in only(run, "remedies")["tried"]}
    assert tried["skip-sample"] == "prevented"
