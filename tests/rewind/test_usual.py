"""A step of which only the least is noted is the same, written down, as one that was written down at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam, Optimizer

import nanscope
from nanscope.recording.rewind import memory, rewind
from nanscope.recording.rewind.repeat import Repeat
from nanscope.recording.rewind.tape import Event, Program, Ref
from nanscope.recording.rewind.usual import Brief, Course

STEPS = 14
X = torch.randn(STEPS, 6, 4, generator=torch.Generator().manual_seed(1))
Y = torch.randint(0, 3, (STEPS, 6), generator=torch.Generator().manual_seed(2))

Loop = Callable[[int, nn.Module, Optimizer], None]


def _update(loss: Tensor, optimizer: Optimizer) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _plain(k: int, model: nn.Module, optimizer: Optimizer) -> None:
    _update(functional.cross_entropy(model(X[k]), Y[k]), optimizer)


def _by_hand(k: int, model: nn.Module, optimizer: Optimizer) -> None:
    logits = model(X[k])
    chosen = torch.log_softmax(logits, 1).gather(1, Y[k].unsqueeze(1))
    _update(-chosen.mean() + 1e-3 * logits.pow(2).sum(), optimizer)


def _scheduled(k: int, model: nn.Module, optimizer: Optimizer) -> None:
    optimizer.param_groups[0]["lr"] = 0.1 / (1 + k)
    _update(functional.mse_loss(model(X[k]), torch.full((6, 3), float(k))), optimizer)


def _annealed(k: int, model: nn.Module, optimizer: Optimizer) -> None:
    _update(functional.cross_entropy(model(X[k]), Y[k]) * (0.5 if k < 8 else 1.0 / k), optimizer)


def _other_loss_at_times(k: int, model: nn.Module, optimizer: Optimizer) -> None:
    logits = model(X[k])
    loss = functional.cross_entropy(logits, Y[k])
    _update(loss + logits.square().mean() if k % 5 == 4 else loss, optimizer)


def _twice_at_times(k: int, model: nn.Module, optimizer: Optimizer) -> None:
    loss = functional.cross_entropy(model(X[k]), Y[k])
    if k in (8, 11):
        loss = loss + functional.cross_entropy(model(-X[k]), Y[k])
    _update(loss, optimizer)


def _twice(k: int, model: nn.Module, optimizer: Optimizer) -> None:
    x = X[k]
    both = torch.stack([functional.cross_entropy(model(x[i:]), target=Y[k][i:]) for i in (0, k % 3)])
    _update(both.sum(), optimizer)
    both.detach().add_(1.0)


def _two_passes_at_times(k: int, model: nn.Module, optimizer: Optimizer) -> None:
    if k in (7, 8):
        functional.cross_entropy(model(X[k]), Y[k]).backward()
    _plain(k, model, optimizer)


def _clipped_at_times(k: int, model: nn.Module, optimizer: Optimizer) -> None:
    optimizer.zero_grad()
    functional.cross_entropy(model(X[k]), Y[k]).backward()
    if k % 4 == 3:
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    optimizer.step()


def _evaluated_between(k: int, model: nn.Module, optimizer: Optimizer) -> None:
    _plain(k, model, optimizer)
    if k % 3 == 2:
        model.eval()
        with torch.no_grad():
            model(X[k])
        model.train()


def _frozen_later(k: int, model: nn.Module, optimizer: Optimizer) -> None:
    if k == 8:
        next(model.parameters()).requires_grad_(False)
    model.train(k < 11)
    _plain(k, model, optimizer)


def _poked(k: int, model: nn.Module, optimizer: Optimizer) -> None:
    if k == 9:
        with torch.no_grad():
            next(model.parameters()).mul_(0.5)
    _plain(k, model, optimizer)


def _writes_into_the_input(k: int, model: nn.Module, optimizer: Optimizer) -> None:
    x = X[k].clone()
    loss = functional.cross_entropy(model(x), Y[k])
    if k == 9:
        x.mul_(2.0)  # the layer needs it no more: its own input needs no gradient
    _update(loss, optimizer)


def _the_input_again(k: int, model: nn.Module, optimizer: Optimizer) -> None:
    x = X[k]
    _update(functional.mse_loss(model(x), x[:, :3] if k == 10 else x[:, 1:]), optimizer)


def _fails_once(k: int, model: nn.Module, optimizer: Optimizer) -> None:
    if k == 8:
        with pytest.raises(RuntimeError):
            model(X[k][:, :2])
    _plain(k, model, optimizer)


LOOPS: list[Loop] = [
    _plain,
    _by_hand,
    _scheduled,
    _annealed,
    _other_loss_at_times,
    _twice_at_times,
    _twice,
    _two_passes_at_times,
    _clipped_at_times,
    _evaluated_between,
    _frozen_later,
    _poked,
    _the_input_again,
    _fails_once,
]


def _programs(loop: Loop, path: Path, make: type[Optimizer]) -> list[Program]:
    """The steps of a training as they were kept at its end."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 3))
    optimizer = make(model.parameters(), lr=0.05)
    with nanscope.record(model, optimizer, path) as recorder:
        for k in range(STEPS):
            loop(k, model, optimizer)
        return recorder._rewinder._memory.programs


def _told(program: Program) -> dict[str, Any]:
    """All that it takes to execute it again, so that it can be compared."""
    about = program.number, program.rows, program.loss, program.bytes, program.is_open, program.sealed
    fixed = [(_value(tensor), version > 0) for tensor, version in program.fixed.values()]
    return {
        "about": about,
        "modes": (list(program.training), list(program.graded)),
        "fixed": sorted(fixed, key=repr),
        "events": list(map(_event, program.events)),
    }


def _event(event: Event) -> tuple[Any, ...]:
    context = event.context
    around = None if context is None else (context.rng.tolist(), context.autocast, context.others is None)
    poked = [_value(held) for _, held in event.poked]
    args, kwargs = _value(event.args), _value(event.kwargs)
    call = getattr(event.call, "__name__", None)
    return call, args, kwargs, event.where, event.result, around, event.settings, poked


def _value(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape), str(value.dtype), value.tolist()
    if type(value) is Ref:
        return "made", value.event, value.item
    if isinstance(value, Optimizer):  # whose gradients were forgotten; each training has its own
        return type(value)
    if isinstance(value, tuple | list):
        return [_value(item) for item in value]
    return {key: _value(item) for key, item in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize("make", [SGD, Adam])
@pytest.mark.parametrize("loop", LOOPS)
def test_the_same_as_written_down(
    loop: Loop, make: type[Optimizer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a loop does otherwise at times: the steps are kept as if each had been written down."""
    monkeypatch.setattr(memory, "SHARE", 1_000_000)  # one snapshot: all steps are kept
    told = []
    for learn in (rewind.Rewinder._learn, lambda *_: None):
        monkeypatch.setattr(rewind.Rewinder, "_learn", learn)
        told.append(list(map(_told, _programs(loop, tmp_path / "run.h5", make))))
    short, full = told
    assert [step["about"] for step in short] == [step["about"] for step in full]
    assert len(full) == STEPS
    assert short == full


def test_a_step_of_another_form_is_a_repeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes as the step before is not kept event by event, whatever its form."""
    kept = _kinds_kept(_twice, tmp_path / "run.h5", monkeypatch)
    assert kept.count(Repeat) >= STEPS - memory.TRIED - 2


def _kinds_kept(loop: Loop, path: Path, monkeypatch: pytest.MonkeyPatch) -> list[type]:
    kept: list[type] = []
    end = memory.Memory.end
    monkeypatch.setattr(
        memory.Memory, "end", lambda self, step: (kept.append(type(step)), end(self, step))[1]
    )
    _programs(loop, path, SGD)
    return kept


@pytest.mark.parametrize("loop", [_plain, _by_hand, _scheduled])
def test_a_usual_step_is_noted(loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an ordinary loop most steps are not written down, or nothing would be won."""
    kept = _kinds_kept(loop, tmp_path / "run.h5", monkeypatch)
    assert kept.count(Brief) >= STEPS - memory.TRIED - 2  # the first ones, and where a snapshot was taken


def test_too_much_to_be_told() -> None:
    """A step without an update, or with more than one model, is none that the next could go as."""
    assert Course.of(Program(0)) is None


def test_inputs_that_were_written_into(tmp_path: Path) -> None:
    """What went in is copied from the next step on, as it is if every step is written down."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3))
    optimizer = SGD(model.parameters(), lr=0.05)
    with nanscope.record(model, optimizer, tmp_path / "run.h5") as recorder:
        for k in range(9):
            _plain(k, model, optimizer)
        x = X[9].clone()
        loss = functional.cross_entropy(model(x), Y[9])
        loss.backward()
        x.zero_()
        optimizer.step()
        assert recorder._rewinder._copies_inputs
