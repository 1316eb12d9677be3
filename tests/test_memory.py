"""What is kept to go back to: snapshots that are of use, and infinities that a model means."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

import nanscope
from nanscope.recording.rewind import memory

pytestmark = pytest.mark.filterwarnings("ignore:var\\(\\)")  # of a single row, which is the fault

ROWS, FEATURES = 8, 4


class Poisonable(nn.Module):
    """Normalises by a running variance in evaluation; what it saw of one row is NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("variance", torch.ones(FEATURES))

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, features), as it came."""
        if self.training:
            self.variance.lerp_(x.var(dim=0), 0.1)
        return x if self.training else x / self.variance.sqrt()


class Masked(nn.Module):
    """Scores of which some are masked by a buffer of -inf."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Linear(FEATURES, 3)
        self.register_buffer("mask", torch.tensor([0.0, 0.0, -torch.inf]))

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, 3)."""
        return torch.softmax(self.scores(x) + self.mask, dim=1)[:, :2]


def _batches(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(ROWS, FEATURES, generator=generator) for _ in range(count)]


def _origin(path: Path) -> nanscope.Origin:
    origin = nanscope.diagnose(path).origin
    assert origin is not None
    return origin


def test_a_poisoned_snapshot_never_replaces_a_sound_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often snapshots are taken, the step that wrote the NaN is found three steps later."""
    monkeypatch.setattr(memory, "SHARE", -1)  # a snapshot before every step
    model = nn.Sequential(Poisonable(), nn.Linear(FEATURES, 1))
    optimizer = SGD(model.parameters(), lr=0.01)
    batches = _batches(8)
    batches[3] = batches[3][:1]
    with nanscope.record(model, optimizer, tmp_path / "run.h5"):
        for step, x in enumerate(batches):
            if step == 6:
                model[0].eval()
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    assert (_origin(tmp_path / "run.h5").step, _origin(tmp_path / "run.h5").op) == (3, "var")


def test_poison_that_nobody_notices_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sound snapshot is given up for a poisoned one when too many steps would have to be kept for it."""
    monkeypatch.setattr(memory, "SHARE", -1)
    monkeypatch.setattr(memory, "MOST_STEPS", 10)
    model = nn.Sequential(Poisonable(), nn.Linear(FEATURES, 1))
    optimizer = SGD(model.parameters(), lr=0.01)
    batches = _batches(40)
    batches[3] = batches[3][:1]
    with nanscope.record(model, optimizer, tmp_path / "run.h5") as recorder:
        for x in batches:
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        kept = recorder._rewinder._memory
        assert 0 < len(kept.programs) <= 11
        assert kept.snapshots[0].number > 3


def test_an_infinite_mask_is_part_of_a_sound_state(tmp_path: Path) -> None:
    """A fault of the optimizer is found by going back although a buffer is infinite from the first."""
    model = Masked()
    optimizer = SGD(model.parameters(), lr=0.01)
    with nanscope.record(model, optimizer, tmp_path / "run.h5"):
        for step, x in enumerate(_batches(5)):
            optimizer.zero_grad()
            (1e3 * model(x)[:, 0].log().mean()).backward()
            optimizer.param_groups[0]["lr"] = 1e38 if step == 3 else 1e-6
            optimizer.step()
    origin = _origin(tmp_path / "run.h5")
    assert (origin.step, origin.phase) == (3, "update")


def test_a_buffer_that_turned_infinite_is_not_meant() -> None:
    """Only what was infinite from the first is by design."""
    model = Poisonable()
    optimizer = SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    kept = memory.Memory(model, [optimizer])
    model.variance.fill_(torch.inf)
    assert not kept.is_sound(memory.State(model, [optimizer]))
