"""What a run file keeps of the bad step: the state before it, and the batch, which make the NaN again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adam

import nanscope
from nanscope.recording.state import restore
from nanscope.store.snapshots.states import snapshots_of
from tests.rewind.loops import batches, net, only, squares, train

BAD = 3
HUGE = 3e38  # its square is infinite


class Noisy(nn.Module):
    """Divides by noise of its own, and counts its calls in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Shape of `x`."""
        self.calls += 1
        return x * torch.rand_like(x)


def diverged(path: Path, **options: Any) -> tuple[nn.Module, Adam, list[Tensor]]:
    """Train into a step that overflows by its target; the model, and what it held before that step."""
    model, data = net(Noisy()), batches(6)
    data[BAD][1][:] = HUGE
    optimizer = Adam(model.parameters(), lr=0.01)
    before: list[Tensor] = []
    with nanscope.record(model, optimizer, path, **options):
        for step, batch in enumerate(data):
            if step == BAD:
                before = [t.detach().clone() for t in (*model.parameters(), *model.buffers())]
            train(model, optimizer, squares, [batch])
    return model, optimizer, before


def test_the_state_before_the_bad_step_makes_the_nan_again(tmp_path: Path) -> None:
    """Restored into another model: parameters, buffers, optimizer and generator are those before the step."""
    _, _, before = diverged(tmp_path / "run.h5")
    assert only(nanscope.open_run(tmp_path / "run.h5"), "origin")["step"] == BAD
    other = net(Noisy())
    optimizer = Adam(other.parameters(), lr=0.5)
    (snapshot,) = (s for s in snapshots_of(tmp_path / "run.h5") if s.step == BAD)
    batch = restore(snapshot, other, optimizer)
    after = [*other.parameters(), *other.buffers()]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert float(other[3].calls) == BAD
    assert optimizer.param_groups[0]["lr"] == 0.01
    assert all(float(state["step"]) == BAD for state in optimizer.state.values())
    (x,), (y,) = batch["inputs"], batch["targets"]
    assert y.unique().tolist() == [pytest.approx(HUGE)]
    assert torch.isinf(squares(other(x), y))


def test_the_generator_is_that_of_the_step(tmp_path: Path) -> None:
    """The noise of the step comes again, number by number."""
    model, data = net(Noisy()), batches(6)
    drawn: list[Tensor] = []
    model[3].register_forward_hook(lambda _m, _a, out: drawn.append(out.detach().clone()))
    data[BAD][1][2] = torch.nan
    optimizer = Adam(model.parameters(), lr=0.01)
    with nanscope.record(model, optimizer, tmp_path / "run.h5"):
        train(model, optimizer, squares, data[: BAD + 1])
    (live,) = drawn[BAD : BAD + 1]
    (snapshot,) = (s for s in snapshots_of(tmp_path / "run.h5") if s.step == BAD)
    other = net(Noisy())
    batch = restore(snapshot, other, Adam(other.parameters()))
    assert torch.equal(other(batch["inputs"][0]), live)


def test_private_data_stays_out_of_the_file(tmp_path: Path) -> None:
    """keep_batch=False: the state alone."""
    diverged(tmp_path / "run.h5", keep_batch=False)
    snapshots = [s for s in snapshots_of(tmp_path / "run.h5") if s.step == BAD]
    other = net(Noisy())
    assert [restore(s, other, Adam(other.parameters())) for s in snapshots] == [None]
    needle = torch.full((3,), HUGE).numpy().tobytes()
    assert needle not in (tmp_path / "run.h5").read_bytes()


def test_without_rewind_nothing_is_kept_and_nothing_told(tmp_path: Path) -> None:
    """rewind=False: neither a state nor an event, and the diagnosis comes from the rows."""
    diverged(tmp_path / "run.h5", rewind=False)
    run = nanscope.open_run(tmp_path / "run.h5")
    for kind in ("origin", "no-rewind", "not-reproduced", "sharpness", "remedies"):
        assert run.events_of(kind) == ()
    assert snapshots_of(tmp_path / "run.h5") == ()
    answer = nanscope.diagnose(run)
    assert answer.origin is not None
    assert (answer.origin.step, answer.origin.op) == (BAD, None)
