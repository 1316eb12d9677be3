"""Discovery finds what is trained, whatever the loop is written like, and leaves nothing behind."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adam

import nanscope
from nanscope.recording import calls
from nanscope.recording.base import recording
from nanscope.recording.discovery import MOST, Call, Discovery
from nanscope.recording.recorder import Recorder

Make = Callable[..., Discovery]


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Every hook is off afterwards, and torch has its own functions back."""
    before = nn.Module.__call__, torch.autograd.backward
    yield
    assert (nn.Module.__call__, torch.autograd.backward) == before
    assert not recording()
    assert not calls._watchers


@pytest.fixture(autouse=True)
def no_compacting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files are not made smaller here: it would take longer than the trainings."""
    monkeypatch.setattr("nanscope.store.compaction.compact.compact_at_close", lambda _path: None)


@pytest.fixture
def discovery(tmp_path: Path) -> Make:
    """Makes one that records into numbered files."""

    def make(**more: Any) -> Discovery:
        def open_(model: nn.Module) -> Recorder:
            return nanscope.record(model, None, tmp_path / f"{type(model).__name__}.h5")

        return Discovery(open_, **more)

    return make


def _net(width: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(model(torch.randn(5, 3)), torch.tensor([0, 1, 0, 1, 0])).backward()
        optimizer.step()


def test_a_plain_loop(discovery: Make) -> None:
    """Its model is found, every step is recorded, and the parameters are those of an unwatched training."""
    watched, bare = _net(), _net()
    torch.manual_seed(1)
    _train(bare, SGD(bare.parameters(), 0.1))
    torch.manual_seed(1)
    with discovery() as found:
        _train(watched, SGD(watched.parameters(), 0.1))
    (one,) = found.found
    assert (one.name, one.steps, one.trouble, one.origin) == ("Sequential", 3, None, None)
    assert one.path is not None
    assert len(nanscope.open_run(one.path)) == 3
    assert all(map(torch.equal, watched.parameters(), bare.parameters()))


def test_the_first_step_is_whole(discovery: Make) -> None:
    """The recorder is there before the first forward: step 0 has its loss, outputs and gradients."""
    model = _net()
    with discovery() as found:
        _train(model, SGD(model.parameters(), 0.1), steps=1)
    run = nanscope.open_run(found.found[0].path)
    assert run.scalar("loss")[0] > 0
    assert all(run.series(site)[0] > 0 for site in run.sites if site.kind in ("output", "grad"))


def test_an_optimizer_made_after_the_first_call(discovery: Make) -> None:
    """Which optimizer steps the model need not be known when it is called."""
    model = _net()
    with discovery() as found:
        model(torch.randn(2, 3))
        _train(model, Adam(model.parameters()))
    assert [one.steps for one in found.found] == [3]


def test_two_models_that_train_each_other(discovery: Make) -> None:
    """Of a GAN both are found, with their own steps; the whole that holds both is one more."""
    generator, critic = nn.Linear(2, 3), _net()
    whole = nn.Sequential(generator, critic)
    of_generator, of_critic = SGD(generator.parameters(), 0.1), SGD(critic.parameters(), 0.1)
    with discovery() as found:
        for _ in range(2):
            of_critic.zero_grad()
            critic(generator(torch.randn(4, 2)).detach()).mean().backward()
            of_critic.step()
            of_generator.zero_grad()
            whole(torch.randn(4, 2)).mean().backward()
            of_generator.step()
    steps = {(one.name, one.steps) for one in found.found}
    assert ("Sequential", 2) in steps
    assert all(one.trouble is None for one in found.found)


def test_the_whole_takes_the_place_of_its_part(discovery: Make) -> None:
    """A part that was only tried out is no training; one that is called later is its whole's."""
    model = _net()
    with discovery() as found:
        model[0](torch.randn(2, 3))
        _train(model, SGD(model.parameters(), 0.1))
        model[2](torch.randn(2, 4))
    assert [(one.name, one.steps) for one in found.found] == [("Sequential", 3)]


def test_a_model_that_is_never_stepped(discovery: Make) -> None:
    """It ends without a step, and without a word of it: nobody asked for a training."""
    with discovery() as found:
        _net()(torch.randn(2, 3)).sum().backward()
    assert [one.steps for one in found.found] == [0]


def test_what_no_recorder_follows_is_looked_at(discovery: Make) -> None:
    """An evaluation, a frozen model, a loss and a call before the first step; not the parts of them."""
    seen: list[tuple[Call, Tensor]] = []
    model, frozen, loss = _net(), _net().requires_grad_(requires_grad=False), nn.MSELoss()
    x = torch.ones(2, 3)
    with discovery(look=lambda call, output: seen.append((call, output))):
        with torch.no_grad():
            model(x)
        loss(frozen(x), torch.zeros(2, 2))
        _train(model, SGD(model.parameters(), 0.0))
    assert [call.module for call, _ in seen] == [model, frozen, loss, model]
    assert seen[0][0].args == (x,)
    assert torch.equal(seen[0][1], model(x))
    assert seen[0][0].came[0][0].co_name == "test_what_no_recorder_follows_is_looked_at"


def test_the_users_own_recorder_comes_first(discovery: Make, tmp_path: Path) -> None:
    """A model that the user records is his, before and after ours would have come."""
    model, late = _net(), _net()
    seen: list[Call] = []
    with discovery(look=lambda call, _: seen.append(call)) as found:
        with nanscope.record(model, None, tmp_path / "own.h5") as own:
            _train(model, SGD(model.parameters(), 0.1))
            model[0](torch.randn(2, 3))
            with torch.no_grad():
                model(torch.randn(2, 3))
        late(torch.randn(2, 3))
        with nanscope.record(late, None, tmp_path / "late.h5") as later:
            _train(late, SGD(late.parameters(), 0.1))
    assert (own.steps, later.steps) == (3, 3)
    assert [one.steps for one in found.found] == [0]
    assert [call.module for call in seen] == [late]


def test_many_models_are_let_go(discovery: Make) -> None:
    """Only the last few are held; one that comes back is recorded anew."""
    models = [_net() for _ in range(MOST + 1)]
    with discovery() as found:
        for model in [*models, models[0]]:
            _train(model, SGD(model.parameters(), 0.1), steps=1)
        assert len(found.recorders) == MOST
        assert [recorder.model for recorder in found.recorders] == [*models[2:], models[0]]
    assert [one.steps for one in found.found] == [1] * (MOST + 2)
    assert len({one.path for one in found.found}) == MOST + 2


def test_calls_within_a_backward_pass_are_none(discovery: Make) -> None:
    """A checkpoint runs a part again: no root is met."""
    model = _net()
    seen: list[Call] = []
    with discovery(look=lambda call, _: seen.append(call)) as found:
        x = torch.randn(2, 3, requires_grad=True)
        torch.utils.checkpoint.checkpoint(model[0], x, use_reentrant=False).sum().backward()
        torch.func.functional_call(model, dict(model.named_parameters()), (x,))
        torch.func.vmap(model)(x)
    assert [one.name for one in found.found] == ["Linear", "Sequential"]
    assert [call.module for call in seen] == [model[0], model]  # one call each, before the backward


def test_an_error_in_the_loop_marks_the_run(discovery: Make) -> None:
    """The run file says how it ended, and the error goes its way."""
    model, found = _net(), discovery()

    def program() -> None:
        with found:
            _train(model, SGD(model.parameters(), 0.1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        program()
    run = nanscope.open_run(found.found[0].path)
    assert run.state == "failed"
    assert "ZeroDivisionError" in run.events_of("error")[0]["message"]


def test_stop_leaves_the_block(tmp_path: Path) -> None:
    """With on_nonfinite="stop" the block of the discovery ends quietly in the bad step."""
    model = _net()
    optimizer, steps = SGD(model.parameters(), 0.1), 0
    with Discovery(lambda m: nanscope.record(m, None, tmp_path / "run.h5", on_nonfinite="stop")) as found:
        while True:
            optimizer.zero_grad()
            (model(torch.randn(2, 3)).sum() * (float("inf") if steps == 2 else 1.0)).backward()
            optimizer.step()
            steps += 1
    assert steps == 2
    assert found.found[0].trouble is not None


def test_one_model_after_the_other(discovery: Make) -> None:
    """Recorders of models that are not called sleep; one whose model is called again goes on where it was."""
    models = [_net() for _ in range(3)]
    optimizers = [SGD(model.parameters(), 0.1) for model in models]
    with discovery() as found:
        for number in (0, 1, 2, 0, 1):
            _train(models[number], optimizers[number], steps=2)
            awake = [calls._watchers.get(id(model)) is not None for model in models]
            assert awake[number]
        models[2][0](torch.randn(2, 3)).sum().backward()
        optimizers[2].step()
    runs = {one.steps: nanscope.open_run(one.path) for one in found.found}
    assert sorted(one.steps for one in found.found) == [3, 4, 4]
    assert (runs[4].scalar("loss") > 0).all()


def test_a_copy_is_another_model(discovery: Make) -> None:
    """What was deep-copied from a watched model trains on its own."""
    model = _net()
    with discovery() as found:
        _train(model, SGD(model.parameters(), 0.1))
        twin = copy.deepcopy(model)
        _train(twin, SGD(twin.parameters(), 0.1), steps=2)
    assert [one.steps for one in found.found] == [3, 2]
