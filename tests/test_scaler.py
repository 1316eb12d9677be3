"""Gradient scalers: every skipped update is told, whatever the loop looks like, and nothing stays behind."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Self

import pytest
import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import SGD, Adagrad, Adam, Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from nanscope.recording import scaler as calls
from nanscope.recording import scaling
from nanscope.recording.scaling import Number, Scalers

INF = float("inf")
SCALE = 2.0**16


class Listener:
    """A recorder in small: hooks on optimizers, a row whenever one of them has ended a step."""

    def __init__(self, *optimizers: Optimizer, together: bool = False) -> None:
        self.rows: list[dict[str, Number]] = []
        self.optimizers, self.ended, self.together = optimizers, 0, together
        self.scalers = Scalers(self.concerns, self.end, lambda hook: hook)
        self.hooks = [o.register_step_post_hook(self.after) for o in optimizers]

    def concerns(self, optimizer: Optimizer) -> bool:
        """Whether it is one of mine."""
        return any(optimizer is own for own in self.optimizers)

    def after(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        """An update was made."""
        if not self.scalers.defers(optimizer):
            self.end(optimizer)

    def end(self, _optimizer: Optimizer) -> None:
        """One optimizer is through; together: the last of them ends the step."""
        self.ended += 1
        if not self.together or self.ended % len(self.optimizers) == 0:
            self.rows.append(self.scalers.take())

    def __enter__(self) -> Self:
        self.scalers.attach()
        return self

    def __exit__(self, *_: object) -> None:
        self.scalers.remove()
        for hook in self.hooks:
            hook.remove()


@pytest.fixture(autouse=True)
def _nothing_stays_behind() -> Iterator[None]:
    """Every method of every scaler class is torch's own after the test."""
    before = {name: vars(GradScaler)[name] for name in calls._TELLERS}
    yield
    assert {name: vars(GradScaler)[name] for name in calls._TELLERS} == before
    assert not calls._watchers
    assert not calls._patches
    assert not calls._is_under_way


def layer(gradient: float = 1.0) -> nn.Linear:
    """A layer whose weight gradient is this number everywhere."""
    made = nn.Linear(2, 2, bias=False)
    spoil(made, gradient)
    return made


def spoil(model: nn.Linear, gradient: float) -> None:
    """Give the weight this gradient."""
    model.weight.grad = torch.full((2, 2), gradient)


MAKERS: dict[str, Callable[[Any], Optimizer]] = {
    "plain": lambda p: SGD(p, 0.1),
    "fused sgd": lambda p: SGD(p, 0.1, fused=True),
    "fused adam": lambda p: Adam(p, 0.1, fused=True),
    "fused adagrad": lambda p: Adagrad(p, 0.1, fused=True),
    "foreach": lambda p: Adam(p, 0.1, foreach=True),
}


@pytest.mark.parametrize("clip", [False, True], ids=["", "clip"])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_skipped_update_is_told(make: Callable[[Any], Optimizer], clip: bool) -> None:
    """Three steps, the second overflows: 0, 1, 0 with the scale of each; the weights agree."""
    model, scaler = layer(), GradScaler("cpu", init_scale=SCALE)
    optimizer, moved = make(model.parameters()), []
    with Listener(optimizer) as heard:
        for gradient in (1.0, INF, 1.0):
            scaler.scale(torch.ones(()))
            spoil(model, gradient)
            before = model.weight.detach().clone()
            if clip:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), 1e-6)
            scaler.step(optimizer)
            scaler.update()
            moved.append(not torch.equal(before, model.weight))
    assert moved == [True, False, True]
    assert heard.rows == [
        {"skipped": 0.0, "loss_scale": SCALE},
        {"skipped": 1.0, "loss_scale": SCALE},
        {"skipped": 0.0, "loss_scale": SCALE / 2},
    ]
    assert heard.scalers.seen


def test_a_disabled_scaler_is_none() -> None:
    """The optimizer's own hook ends the step; there is no scale to speak of."""
    model, scaler = layer(), GradScaler("cpu", enabled=False)
    with Listener(SGD(model.parameters(), 0.1)) as heard:
        loss = scaler.scale(torch.ones((), requires_grad=True))
        assert heard.scalers.scale_of([loss]) is None
        scaler.step(heard.optimizers[0])
        scaler.update()
    assert heard.rows == [{}]
    assert not heard.scalers.seen


def test_a_step_without_the_scaler_has_no_scalars() -> None:
    """Updates outside of `scaler.step` are not deferred."""
    model = layer()
    with Listener(SGD(model.parameters(), 0.1)) as heard:
        heard.optimizers[0].step()
    assert heard.rows == [{}]


@pytest.mark.parametrize(("bad", "share"), [((), 0.0), ((0,), 0.5), ((1,), 0.5), ((0, 1), 1.0)])
def test_several_optimizers_with_one_scaler(bad: tuple[int, ...], share: float) -> None:
    """`skipped` is the share of the optimizers whose update was left out."""
    models = [layer(INF if i in bad else 1.0) for i in range(2)]
    optimizers = [SGD(model.parameters(), 0.1) for model in models]
    scaler = GradScaler("cpu")
    with Listener(*optimizers, together=True) as heard:
        scaler.scale(torch.ones(()))
        for optimizer in optimizers:
            scaler.step(optimizer)
        scaler.update()
    assert [row["skipped"] for row in heard.rows] == [share]


def test_the_update_of_a_foreign_optimizer_is_nobodys() -> None:
    """Another model's skip, told to every recorder, ends no step of this one."""
    mine, other, scaler = layer(), layer(INF), GradScaler("cpu")
    with Listener(SGD(mine.parameters(), 0.1)) as heard:
        scaler.scale(torch.ones(()))
        scaler.step(SGD(other.parameters(), 0.1))
        scaler.update()
    assert not heard.rows


@pytest.mark.parametrize("new", [8.0, torch.tensor(8.0)])
def test_a_scale_of_the_users_own(new: float | Tensor) -> None:
    """`update(new_scale)` holds from the next step on, also where no growth or backoff comes with it."""
    model, scaler = layer(), GradScaler("cpu", init_scale=4.0)
    optimizer = SGD(model.parameters(), 0.1)
    with Listener(optimizer) as heard:
        for _ in range(3):
            scaler.scale(torch.ones(()))
            spoil(model, 1.0)
            scaler.step(optimizer)
            scaler.update(new)
    assert [row["loss_scale"] for row in heard.rows] == [4.0, 8.0, 8.0]


def test_the_loop_itself_leaves_an_update_out() -> None:
    """unscale_, a look at the gradients, no step: update() ends the step, with the scale before it."""
    model, scaler = layer(INF), GradScaler("cpu", init_scale=SCALE)
    optimizer = SGD(model.parameters(), 0.1)
    with Listener(optimizer) as heard:
        scaler.scale(torch.ones(()))
        scaler.unscale_(optimizer)
        scaler.update()
        scaler.update(1.0)  # nothing is left to tell
    assert heard.rows == [{"skipped": 1.0, "loss_scale": SCALE}]


class Calling(GradScaler):
    """Overrides everything and calls its parent."""

    def scale(self, outputs: Any) -> Any:
        """As the parent."""
        return super().scale(outputs)

    def step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> float | None:
        """As the parent."""
        return super().step(optimizer, *args, **kwargs)

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """As the parent."""
        super().update(new_scale)


class Own(GradScaler):
    """Overrides `step` and asks nobody: skips what is too large, by a rule of its own."""

    def step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> float | None:
        """Skip a gradient above 10."""
        too_large = any(p.grad.max() > 10 for group in optimizer.param_groups for p in group["params"])
        return None if too_large else optimizer.step(*args, **kwargs)


@pytest.mark.parametrize("kind", [Calling, Own])
def test_subclasses(kind: type[GradScaler]) -> None:
    """A subclass that calls its parent is told once; one that does not is told as well."""
    model, scaler = layer(), kind("cpu", init_scale=2.0)
    optimizer, own = SGD(model.parameters(), 0.1), dict(vars(kind))
    with Listener(optimizer) as heard:
        for gradient in (1.0, INF):
            scaler.scale(torch.ones(()))
            spoil(model, gradient)
            scaler.step(optimizer=optimizer)
            if kind is Calling:
                scaler.update()
    assert [row["skipped"] for row in heard.rows] == [0.0, 1.0]
    assert dict(vars(kind)) == own


class Wrapper:
    """Holds an optimizer, as several libraries do, and is none."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer, self.param_groups = optimizer, optimizer.param_groups

    def step(self) -> None:
        """As the wrapped one."""
        self.optimizer.step()


def test_a_wrapped_optimizer() -> None:
    """The one inside is the one that is known, and it ends one step only."""
    model, scaler = layer(), GradScaler("cpu")
    inner = SGD(model.parameters(), 0.1)
    with Listener(inner) as heard:
        scaler.scale(torch.ones(()))
        scaler.step(Wrapper(inner))
        scaler.update()
    assert [row["skipped"] for row in heard.rows] == [0.0]


def test_an_optimizer_that_torch_does_not_tell_of() -> None:
    """Near miss: whoever is never heard of has not skipped; the scaler's flags decide."""
    model, scaler = layer(), GradScaler("cpu")
    deaf: Any = Wrapper(SGD(model.parameters(), 0.1))
    with Listener() as heard:
        heard.optimizers = (deaf,)
        for gradient in (1.0, INF):
            scaler.scale(torch.ones(()))
            spoil(model, gradient)
            scaler.step(deaf)
            scaler.update()
    assert [row["skipped"] for row in heard.rows] == [0.0, 1.0]


def test_a_step_that_raises() -> None:
    """The error is the user's; afterwards an ordinary update is an ordinary update."""
    model, scaler = layer(), GradScaler("cpu")
    optimizer = SGD(model.parameters(), 0.1)
    with Listener(optimizer) as heard:
        with pytest.raises(AssertionError, match="_scale is None"):
            scaler.step(optimizer)
        optimizer.step()
    assert heard.rows == [{}]


def test_nested_and_repeated() -> None:
    """Two recorders hear the same, one of them again later; the methods are patched once."""
    model, scaler = layer(), GradScaler("cpu")
    optimizer = SGD(model.parameters(), 0.1)
    first, second = Listener(optimizer), Listener(optimizer)

    def step() -> None:
        scaler.scale(torch.ones(()))
        spoil(model, INF)
        scaler.step(optimizer)
        scaler.update()

    with first:
        with second:
            step()
            assert len(calls._patches) == len(set(calls._patches))
        step()
    with first:
        step()
    assert [len(heard.rows) for heard in (first, second)] == [3, 1]


def test_somebody_wraps_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrapper of another tool survives ours, and still reaches torch; nothing is told twice."""
    model, scaler = layer(INF), GradScaler("cpu")
    optimizer, seen = SGD(model.parameters(), 0.1), []
    original = GradScaler.step
    with Listener(optimizer) as heard:
        ours = GradScaler.step
        monkeypatch.setattr(GradScaler, "step", lambda *a, **k: (seen.append(a), ours(*a, **k))[1])
    for _ in range(2):
        with heard:
            scaler.scale(torch.ones(()))
            spoil(model, INF)
            scaler.step(optimizer)
            scaler.update()
    assert (len(heard.rows), len(seen)) == (2, 2)
    monkeypatch.undo()
    GradScaler.step = original


def test_whose_scale_a_backward_pass_has() -> None:
    """Outputs of scale() by themselves or changed; what was not scaled has none."""
    model, scaler = layer(), GradScaler("cpu", init_scale=4.0)
    with Listener(SGD(model.parameters(), 0.1)) as heard:
        of = heard.scalers.scale_of
        one, two = (scaler.scale(torch.ones((), requires_grad=True)) for _ in range(2))
        assert of([two]) == 4.0
        assert of([one]) == 4.0
        assert of([one]) == 4.0, "a second pass over a retained graph"
        assert of([torch.ones(())]) is None, "a loss that nobody scaled"
        scaled = scaler.scale(torch.ones(()))
        assert of([scaled / 2]) == 4.0
        assert of([scaled / 2]) is None, "only one pass may be behind an output that it does not start from"
        pair = scaler.scale([torch.ones(()), torch.ones(())])
        assert of([sum(pair)]) == 4.0
        lazy = scaler.scale(iter([torch.ones(())]))
        assert of(list(lazy)) == 4.0


def test_two_scalers() -> None:
    """Each loss has the scale of its own scaler."""
    first, second = GradScaler("cpu", init_scale=2.0), GradScaler("cpu", init_scale=8.0)
    with Listener() as heard:
        one, two = first.scale(torch.ones(())), second.scale(torch.ones(()))
        assert [heard.scalers.scale_of([loss]) for loss in (one, two)] == [2.0, 8.0]


def test_long_accumulation_holds_nothing() -> None:
    """Used outputs are forgotten as their losses die, and all of them when the scale is updated."""
    scaler = GradScaler("cpu")
    with Listener() as heard:
        for _ in range(100):
            loss = scaler.scale(torch.ones(()))
            heard.scalers.scale_of([loss])
        assert len(heard.scalers._outputs) <= 2
        scaler.update(1.0)
        assert not heard.scalers._outputs


def test_nothing_is_kept_alive() -> None:
    """Neither tensors, nor scaler, nor optimizer, when a recorder left in the middle of a step."""
    model, scaler = layer(), GradScaler("cpu")
    optimizer = SGD(model.parameters(), 0.1)
    listener = Scalers(lambda _: True, lambda _: None, lambda hook: hook)
    listener.attach()
    loss = scaler.scale(torch.ones(()))
    scaler.unscale_(optimizer)
    listener.remove()
    held = [weakref.ref(thing) for thing in (loss, scaler, optimizer, scaler._scale)]
    del loss, scaler, optimizer
    gc.collect()
    assert [ref() for ref in held] == [None] * 4


def test_a_failure_of_ours_stays_ours() -> None:
    """What breaks inside is caught by the recorder's guard, and the training goes on."""
    caught: list[Exception] = []

    def guard(hook: Callable[..., None]) -> Callable[..., None]:
        def guarded(*args: Any) -> None:
            try:
                hook(*args)
            except RuntimeError as error:
                caught.append(error)

        return guarded

    def broken(_scaler: GradScaler) -> Number | None:
        raise RuntimeError("ours")

    model, scaler = layer(), GradScaler("cpu")
    optimizer = SGD(model.parameters(), 0.1)
    listener = Scalers(lambda _: True, lambda _: None, guard)
    listener._read = broken  # type: ignore[method-assign]
    listener.attach()
    scaler.scale(torch.ones(()))
    scaler.step(optimizer)
    scaler.update()
    listener.remove()
    assert len(caught) == 2


class Syncs(TorchDispatchMode):
    """Counts reads of a number from a tensor: on a GPU each of them waits for the device."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count and pass on."""
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("kind", "torchs"), [("fused adam", 0), ("plain", 2)])
def test_on_a_device_nothing_waits(monkeypatch: pytest.MonkeyPatch, kind: str, torchs: int) -> None:
    """Numbers that may not be read are handed on as tensors of their own; only torch itself reads any."""
    monkeypatch.setattr(scaling, "_is_here", lambda _: False)
    models = [layer(), layer(INF)]
    optimizers = [MAKERS[kind](model.parameters()) for model in models]
    scaler = GradScaler("cpu", init_scale=4.0)
    with Listener(*optimizers, together=True) as heard, Syncs() as syncs:
        loss = scaler.scale(torch.ones(()))
        scale = heard.scalers.scale_of([loss])
        for optimizer in optimizers:
            scaler.step(optimizer)
        scaler.update()
    assert syncs.count == torchs
    assert isinstance(scale, Tensor)
    (row,) = heard.rows
    assert (float(row["skipped"]), float(row["loss_scale"]), float(scale)) == (0.5, 4.0, 4.0)


def test_the_training_is_the_same_bit_for_bit() -> None:
    """Ten steps in half precision, some skipped, with and without anybody watching."""

    def train(*, watched: bool) -> tuple[bytes, dict[str, Any]]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 1))
        optimizer = Adam(model.parameters(), 1e-2)
        scaler = GradScaler("cpu", init_scale=2.0**24, growth_interval=2)
        with Listener(optimizer) if watched else torch.enable_grad():
            for _ in range(10):
                optimizer.zero_grad()
                with torch.autocast("cpu", torch.float16):
                    loss = model(torch.randn(4, 8)).square().mean()
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
        return b"".join(p.detach().numpy().tobytes() for p in model.parameters()), scaler.state_dict()

    assert train(watched=True) == train(watched=False)
