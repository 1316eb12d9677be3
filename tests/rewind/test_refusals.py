"""Steps that cannot be executed again, or come out otherwise: it is said why, and the training goes on."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

import nanscope
from nanscope.recording.rewind.inquiry import Inquiry
from nanscope.recording.rewind.rerun import Rerun
from nanscope.run import Run
from tests.rewind.loops import batches, net, only, recorded, squares, train

BAD = 3
KINDS = ("origin", "no-rewind", "not-reproduced")


class Fuse(nn.Module):
    """Fails at its n-th call, by a counter in Python which nobody puts back."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = [0]

    def forward(self, x: Tensor) -> Tensor:
        """Shape of `x`."""
        self.calls[0] += 1
        return x * (torch.inf if self.calls[0] == BAD + 1 else 1.0)


def kinds(run: Run) -> list[str]:
    """Which of the three answers there are."""
    return [kind for kind in KINDS if run.events_of(kind)]


def bad_batches(count: int = 6) -> list[tuple[Tensor, Tensor]]:
    """Batches of which one has an infinite square in its target."""
    data = batches(count)
    data[BAD][1][2] = 1e30
    return data


def test_a_fault_from_outside_is_not_reproduced(tmp_path: Path) -> None:
    """Executed again the step is finite: what differed is told in numbers, and no operation is blamed."""
    run = recorded(tmp_path / "run.h5", net(Fuse()), squares, batches(6))
    assert kinds(run) == ["not-reproduced"]
    event = only(run, "not-reproduced")
    assert event["step"] == BAD
    (difference,) = event["differs"]
    assert difference.startswith("loss: inf live, ")
    answer = nanscope.diagnose(run)
    assert [cause.id for cause in answer.causes] == ["not-reproducible"]
    assert answer.causes[0].evidence[0] == difference
    assert answer.origin is not None
    assert (answer.origin.step, answer.origin.op) == (BAD, None)


def test_a_fault_that_comes_again_is_reproduced(tmp_path: Path) -> None:
    """The near miss: chance that is drawn from the generators comes out alike."""

    class Chance(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / (torch.rand(()) > 0.3) if random.random() < 0.9 else x

    torch.manual_seed(0)
    random.seed(0)
    run = recorded(tmp_path / "run.h5", net(Chance()), squares, batches(40))
    assert kinds(run) == ["origin"]
    assert only(run, "origin")["op"] == "div"


@pytest.mark.parametrize("bad", [0, BAD])
def test_a_mode_of_the_users_own(tmp_path: Path, bad: int) -> None:
    """`with torch.device` around the forward pass alone is no obstacle, in the first step or later."""
    model, data = net(), batches(6)
    data[bad][1][2] = 1e30
    optimizer = SGD(model.parameters(), lr=0.05)
    with nanscope.record(model, optimizer, tmp_path / "run.h5"):
        for x, y in data:
            with torch.device("cpu"):
                output = model(x)
            optimizer.zero_grad()
            (output - y).square().mean().backward()
            optimizer.step()
    run = nanscope.open_run(tmp_path / "run.h5")
    assert _get_current_function_mode_stack() == []
    assert (only(run, "origin")["op"], only(run, "origin")["samples"]) == ("pow", [2])


def test_a_mode_around_everything(tmp_path: Path) -> None:
    """`with torch.device` around the whole loop stays the user's, and that the loss was not heard is said."""
    model, data = net(), bad_batches()
    with torch.device("cpu"):
        run = recorded(tmp_path / "run.h5", model, squares, data)
        assert len(_get_current_function_mode_stack()) == 1
    assert kinds(run) == ["no-rewind"]
    assert "could not be heard" in only(run, "no-rewind")["why"]
    assert any("could not be heard" in line for line in nanscope.diagnose(run).unknowns)


class Bomb(nn.Module):
    """Cannot be called once more than it was."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = [0]

    def forward(self, x: Tensor) -> Tensor:
        """Shape of `x`."""
        self.calls[0] += 1
        if self.calls[0] == BAD + 2:
            raise ConnectionError("the socket of step 3 is closed")
        return x


@contextmanager
def nothing_left(model: nn.Module) -> Iterator[None]:
    """Whatever happens within, no hook, mode or patched function stays."""
    functions = torch.Tensor.backward, torch.autograd.backward, nn.Module.__call__
    yield
    assert _get_current_function_mode_stack() == []
    assert _get_current_dispatch_mode_stack() == []
    assert (torch.Tensor.backward, torch.autograd.backward, nn.Module.__call__) == functions
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._backward_hooks
    assert torch.is_grad_enabled()


def test_a_rewind_that_raises_inside(tmp_path: Path) -> None:
    """It says so, in the error's own words; the recording goes on to the last step, and nothing is left."""
    model, data = net(Bomb()), bad_batches(7)
    with nothing_left(model):
        run = recorded(tmp_path / "run.h5", model, squares, data)
    assert kinds(run) == ["no-rewind"]
    assert "the socket of step 3 is closed" in only(run, "no-rewind")["why"]
    assert len(run) == 7
    assert not run.events_of("recorder-failed")


@pytest.mark.parametrize("place", [Inquiry.of_step, Rerun.execute], ids=["inquiry", "rerun"])
def test_a_bug_of_our_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Callable[..., object]
) -> None:
    """The training's parameters are those of a run that nobody watched."""

    def broken(*_args: object, **_kwargs: object) -> None:
        raise KeyError("a bug")

    plain = net()
    train(plain, SGD(plain.parameters(), lr=0.05), squares, bad_batches())
    owner = Inquiry if place is Inquiry.of_step else Rerun
    monkeypatch.setattr(owner, place.__name__, broken)
    model = net()
    with nothing_left(model):
        run = recorded(tmp_path / "run.h5", model, squares, bad_batches())
    assert only(run, "no-rewind")["why"] == "KeyError('a bug')"
    pairs = zip(plain.parameters(), model.parameters(), strict=True)
    assert all(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True) for a, b in pairs)


def test_nothing_is_left_after_an_origin(tmp_path: Path) -> None:
    """Neither hooks nor modes, nor what was kept of the steps; gradients are the training's own."""
    model, data = net(), bad_batches()
    with nothing_left(model):
        optimizer = SGD(model.parameters(), lr=0.05)
        with nanscope.record(model, optimizer, tmp_path / "run.h5") as recorder:
            train(model, optimizer, squares, data[: BAD + 1])
            assert recorder._rewinder.done
            assert not recorder._rewinder._memory.snapshots
            assert not recorder._rewinder._memory.programs
            grads = [p.grad for p in model.parameters()]
            train(model, optimizer, squares, data[BAD + 1 :])
    assert all(grad is not None for grad in grads)
    assert kinds(nanscope.open_run(tmp_path / "run.h5")) == ["origin"]
