"""The state of a training, through a file and back: it goes on exactly as it did the first time."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.optim import SGD, AdamW

from nanscope.recording.state import capture, restore, room_for
from nanscope.store.snapshots.slots import slot_bytes_for
from nanscope.store.snapshots.states import snapshots_of
from nanscope.store.snapshots.writer import SnapshotRoom
from nanscope.store.writer import RunWriter
from tests.models import convolutional, mlp
from tests.store.files import header, layout
from tests.trainings import MAKERS, Awkward, Maker, bits, everything, stored, train


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS.keys())
@pytest.mark.parametrize("before", [0, 3])
def test_a_training_goes_on_as_it_did(tmp_path: Path, maker: Maker, before: int) -> None:
    """Captured before the first step, or later; trained on, put back, trained again: every bit the same."""
    torch.manual_seed(0)
    model = Awkward()
    optimizers = maker(model)
    train(model, optimizers, before)
    snapshot = stored(tmp_path, model, optimizers)
    start = everything(model, optimizers)
    train(model, optimizers, 3)
    first = everything(model, optimizers)
    assert first != start
    for group in optimizers[0].param_groups:
        group["lr"] = 0.123
    restore(snapshot, model, optimizers)
    assert everything(model, optimizers) == start
    train(model, optimizers, 3)
    assert everything(model, optimizers) == first


def test_through_a_run_file(tmp_path: Path) -> None:
    """As a rewind does: snapshots while the training goes on, the run file read beside it, one step back."""
    model = Awkward()
    optimizers = MAKERS["adamw"](model)
    room = SnapshotRoom(2, room_for(model, optimizers))
    writer = RunWriter.create(tmp_path / "run.h5", header(2), layout=layout(2), snapshots=room)
    states = []
    for step in range(4):
        states.append(everything(model, optimizers))
        assert writer.snapshot(step, step / 8, *capture(model, optimizers))
        assert writer._snapshots is not None
        assert writer._snapshots.wait()
        train(model, optimizers, 1)
    assert writer.pin_snapshot(2)
    newest, before = snapshots_of(tmp_path / "run.h5")
    assert (newest.step, before.step) == (3, 2)
    last = everything(model, optimizers)
    restore(before, model, optimizers)
    assert everything(model, optimizers) == states[2]
    train(model, optimizers, 2)
    assert everything(model, optimizers) == last
    writer.close()


def test_autocast(tmp_path: Path) -> None:
    """A loop in mixed precision."""
    model = mlp()
    optimizers = [SGD(model.parameters(), 0.1, momentum=0.9)]
    train(model, optimizers, 2, amp=True)
    snapshot = stored(tmp_path, model, optimizers)
    train(model, optimizers, 4, amp=True)
    first = everything(model, optimizers)
    restore(snapshot, model, optimizers)
    train(model, optimizers, 4, amp=True)
    assert everything(model, optimizers) == first


def test_a_fresh_process_can_go_on(tmp_path: Path) -> None:
    """Restored into another model and an optimizer that has no state yet."""
    model = mlp()
    optimizers = [AdamW(model.parameters(), 1e-2)]
    train(model, optimizers, 3)
    snapshot = stored(tmp_path, model, optimizers)
    train(model, optimizers, 3)
    other = mlp()
    others = [AdamW(other.parameters(), 0.5)]
    restore(snapshot, other, others)
    train(other, others, 3)
    assert everything(other, others) == everything(model, optimizers)


def test_who_holds_a_tensor_holds_it_still(tmp_path: Path) -> None:
    """Parameters, buffers and optimizer tensors are the same objects; gradients and flags are untouched."""
    model = convolutional()
    optimizer = AdamW(model.parameters(), torch.tensor(1e-2))
    train(model, [optimizer], 2)
    snapshot = stored(tmp_path, model, optimizer)
    train(model, [optimizer], 2)
    model[1].weight.requires_grad_(False)
    held = [*model.parameters(), *model.buffers(), optimizer.param_groups[0]["lr"]]
    held += [value for state in optimizer.state.values() for value in state.values()]
    places = [tensor.data_ptr() for tensor in held]
    grads = [p.grad for p in model.parameters()]
    grad_bits = [bits(grad) for grad in grads]
    restore(snapshot, model, optimizer)
    now = [*model.parameters(), *model.buffers(), optimizer.param_groups[0]["lr"]]
    now += [value for state in optimizer.state.values() for value in state.values()]
    assert all(a is b for a, b in zip(held, now, strict=True))
    assert [tensor.data_ptr() for tensor in now] == places
    assert all(p.grad is grad for p, grad in zip(model.parameters(), grads, strict=True))
    assert [bits(grad) for grad in grads] == grad_bits
    assert [p.requires_grad for p in model.parameters()] == [False] + [True] * (len(grads) - 1)


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS.keys())
def test_the_room_is_enough(maker: Maker) -> None:
    """Sized before the first step, when optimizers have no state: enough for what comes."""
    model = Awkward()
    optimizers = maker(model)
    room = room_for(model, optimizers, torch.ones(16, 8))
    train(model, optimizers, 5)
    assert slot_bytes_for(*capture(model, optimizers, torch.ones(16, 8)), spare=0) <= room


def test_capture_draws_nothing_and_changes_nothing() -> None:
    """Neither a random number nor a version counter."""
    model = Awkward()
    optimizers = MAKERS["momentum"](model)
    train(model, optimizers, 2)
    before = everything(model, optimizers)
    versions = [t._version for t in (*model.parameters(), *model.buffers())]
    for piece in capture(model, optimizers)[0].values():
        piece.copy_to(np.zeros(piece.nbytes, np.uint8))
    assert everything(model, optimizers) == before
    assert [t._version for t in (*model.parameters(), *model.buffers())] == versions
