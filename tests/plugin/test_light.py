"""The light recorder sees what the full one sees, and changes as little."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam, Optimizer

import nanscope
from nanscope.plugin.watch import Watch
from nanscope.recording.sink import KeepRun
from nanscope.recording.updates import ByHand
from nanscope.values import Origin

STEPS = 12

Spoil = Callable[[int, nn.Module, Optimizer], None]


class Net(nn.Module):
    """Spoils a value in the middle of its forward pass when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)
        self.scale = 1.0

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        hidden = self.norm(self.first(x)).abs() + 0.1
        return self.last(torch.log(hidden * self.scale))


def _train(bad: int, kind: str, make: type[Optimizer] = Adam) -> Net:
    """An ordinary loop, in step `bad` of which something of a kind is spoilt."""
    torch.manual_seed(0)
    model = Net()
    optimizer = make(model.parameters(), lr=0.01)
    for step in range(STEPS):
        x, y = torch.randn(6, 3), torch.randint(0, 2, (6,))
        now = step == bad
        model.scale = 0.0 if now and kind == "forward" else 1.0
        optimizer.param_groups[0]["lr"] = torch.inf if now and kind == "parameter" else 0.01
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        if now and kind == "loss":
            loss = loss + (loss.detach() - loss.detach()).log()
        if now and kind == "gradient":
            loss = loss + (model.last.bias * 0).sum().sqrt()
        if now and kind == "optimizer state":
            loss = loss * 1e25
        loss.backward()
        optimizer.step()
    return model


def _seen(run: Callable[[], Any], path: Path, keep: KeepRun) -> list[Origin | str | None]:
    """The origins of what a watch sees, or what it says where none is known.

    Without the place in the rows where it was seen first: the light recorder has fewer.
    """
    watch = Watch(path, keep)
    watch.begin()
    run()
    seen, _ = watch.end()
    return [sighting.told or _origin(sighting.path) for sighting in seen]


def _origin(path: Path | None) -> Origin | None:
    origin = nanscope.diagnose(path).origin if path else None
    return replace(origin, site=None) if origin else None


@pytest.mark.parametrize("kind", ["forward", "loss", "gradient", "parameter"])
@pytest.mark.parametrize("bad", [0, 5, STEPS - 1])
def test_the_same_origin(bad: int, kind: str, tmp_path: Path) -> None:
    """In the first step, in the midst, and in the last: as the full recorder, which looks at everything."""
    light, full = (
        _seen(lambda: _train(bad, kind), tmp_path / f"{keep}.h5", keep) for keep in ("trouble", "trained")
    )
    assert len(light) == len(full) == 1
    assert isinstance(light[0], Origin)
    assert light[0].step == bad
    assert repr(light) == repr(full)  # a NaN in one is equal to none


@pytest.mark.parametrize("bad", [0, STEPS - 1])
def test_an_optimizers_state(bad: int, tmp_path: Path) -> None:
    """A second moment that overflows shows in no loss and no gradient."""
    (told,) = _seen(lambda: _train(bad, "optimizer state"), tmp_path / "run.h5", "trouble")
    assert "exp_avg_sq" in str(told)


def test_an_evaluation(tmp_path: Path) -> None:
    """What a trained model returns without autograd is looked at."""

    def run() -> None:
        model = _train(-1, "").eval()
        model.scale = 0.0
        with torch.no_grad():
            model(torch.randn(4, 3))

    (origin,) = _seen(run, tmp_path / "run.h5", "trouble")
    assert isinstance(origin, Origin)
    assert origin.op == "log"


def _sound(make: type[Optimizer]) -> None:
    _train(-1, "", make)


def _masked() -> None:
    """A NaN that is computed beside the loss and is masked away before it reaches it."""
    model = Net()
    optimizer = SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        output = model(torch.randn(4, 3))
        with torch.no_grad():
            odd = output.log()
        weight = torch.where(odd.isfinite(), 1.0, 0.0)
        (output * weight).mean().backward()
        optimizer.step()


def _scaled() -> None:
    """A gradient scaler that begins far too high, and skips until it has found its level."""
    model = nn.Linear(3, 2)
    optimizer = SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126)
    for _ in range(8):
        optimizer.zero_grad()
        output = model(torch.ones(4, 3) * 64)
        scaler.scale((output - output.detach()).sum()).backward()
        scaler.step(optimizer)
        scaler.update()


def _thrown_away() -> None:
    """Gradients of a huge but finite loss, which overflow in their norm only."""
    model = nn.Linear(3, 2)
    optimizer = SGD(model.parameters(), lr=0.0)
    for _ in range(3):
        optimizer.zero_grad()
        (model(torch.ones(4, 3)) * 1e37).sum().backward()
        optimizer.step()


@pytest.mark.parametrize("run", [lambda: _sound(SGD), lambda: _sound(Adam), _masked, _scaled, _thrown_away])
def test_no_false_alarm(run: Callable[[], None], tmp_path: Path) -> None:
    """Nothing is seen, and no file is left."""
    assert _seen(run, tmp_path / "run.h5", "trouble") == []
    assert not list(tmp_path.iterdir())


class Pair:
    """Two models that train each other; the critic counts its calls and keeps running means."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.generator = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
        self.critic = Net()
        self.of_generator = Adam(self.generator.parameters(), lr=0.01)
        self.of_critic = Adam(self.critic.parameters(), lr=0.01)

    def train(self, bad: int) -> list[Tensor]:
        """Ten steps of both, in one of which the generator's loss turns NaN; the state after them."""
        labels = torch.ones(6, dtype=torch.long)
        for step in range(10):
            fake = self.generator(torch.randn(6, 2))
            self.of_critic.zero_grad()
            real = functional.cross_entropy(self.critic(torch.randn(6, 3)), labels)
            (real + functional.cross_entropy(self.critic(fake.detach()), 1 - labels)).backward()
            self.of_critic.step()
            self.of_generator.zero_grad()
            loss = functional.cross_entropy(self.critic(fake), labels)
            loss = (loss - loss.detach() - 1).log() if step == bad else loss
            loss.backward()
            if step != bad:
                self.of_generator.step()
        models = self.generator, self.critic
        gradients = [p.grad for model in models for p in model.parameters() if p.grad is not None]
        return [*gradients, *(value for model in models for value in model.state_dict().values())]


@pytest.mark.parametrize("bad", [-1, 4])
def test_two_models_are_left_as_they_were(bad: int, tmp_path: Path) -> None:
    """Bit for bit, also where a step of the one was executed again in which the other was called."""
    plain = Pair().train(bad)
    watched: list[Tensor] = []
    origins = _seen(lambda: watched.extend(Pair().train(bad)), tmp_path / "run.h5", "trouble")
    assert len(plain) == len(watched)
    assert all(
        torch.equal(a, b) or (a.isnan() == b.isnan()).all() for a, b in zip(plain, watched, strict=True)
    )
    assert bool(origins) == (bad >= 0)
    assert {origin.op for origin in origins if isinstance(origin, Origin)} == ({"log"} if origins else set())


def test_torch_gets_its_functions_back(tmp_path: Path) -> None:
    """What forgets gradients is replaced while somebody watches, and only then."""
    before = Optimizer.zero_grad, nn.Module.zero_grad, nn.Module.__call__
    _seen(lambda: _sound(SGD), tmp_path / "run.h5", "trouble")
    assert (Optimizer.zero_grad, nn.Module.zero_grad, nn.Module.__call__) == before


def test_the_file_of_a_failure(tmp_path: Path) -> None:
    """It holds the loss and the norms of the gradients of every step, against norms taken one by one."""
    norms: list[float] = []

    def run() -> None:
        torch.manual_seed(0)
        model = Net()
        optimizer = SGD(model.parameters(), lr=0.1)
        for step in range(5):
            optimizer.zero_grad()
            model.scale = float(step < 4)
            model(torch.randn(6, 3)).square().mean().backward()
            assert model.last.weight.grad is not None
            norms.append(model.last.weight.grad.double().norm().item())
            optimizer.step()

    path = tmp_path / "run.h5"
    _seen(run, path, "trouble")
    opened = nanscope.open_run(path)
    site = next(site for site in opened.sites if site.name == "last.weight" and site.kind == "grad")
    assert len(opened) == 5
    assert opened.series(site)[:4] == pytest.approx(norms[:4], rel=1e-5)
    assert nanscope.diagnose(opened).verdict == "diverged"


def test_a_state_within_a_tuple(tmp_path: Path) -> None:
    """What an LSTM returns beside its output is the step's own: a loss of it can be executed again."""

    def run() -> None:
        torch.manual_seed(0)
        model = nn.LSTM(2, 3)
        optimizer = Adam(model.parameters())
        for step in range(6):
            optimizer.zero_grad()
            _, (hidden, _) = model(torch.randn(4, 2))
            loss = (hidden.square().sum() * float(step < 4)).log() if step >= 3 else hidden.sum()
            loss.backward()
            optimizer.step()

    (origin,) = _seen(run, tmp_path / "run.h5", "trouble")
    assert isinstance(origin, Origin)
    assert (origin.step, origin.op, origin.phase) == (4, "log", "loss")


def test_a_policy_asked_many_times(tmp_path: Path) -> None:
    """Steps of several lengths in turn: the one that breaks is found in its own form."""

    def run() -> None:
        torch.manual_seed(0)
        policy = nn.Linear(3, 2)
        optimizer = Adam(policy.parameters(), lr=0.01)
        for step in range(30):
            logs = [policy(torch.randn(3)).log_softmax(0)[step % 2] for _ in range(2 + step % 3)]
            loss = -torch.stack(logs).sum()
            loss = (loss * 0).log() if step == 25 else loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    (origin,) = _seen(run, tmp_path / "run.h5", "trouble")
    assert isinstance(origin, Origin)
    assert (origin.step, origin.op, origin.phase) == (25, "log", "loss")


def test_parameters_are_not_copied_where_an_optimizer_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the first update nobody knows whether there is one; from then on a look would be for nothing."""
    looked: list[int] = []
    monkeypatch.setattr(ByHand, "remember", lambda _self, parameters: looked.append(len(list(parameters))))
    watch = Watch(tmp_path / "run.h5", "trouble")
    watch.begin()
    _train(-1, "")
    assert watch.end() == ([], [])
    assert len(looked) == 1
