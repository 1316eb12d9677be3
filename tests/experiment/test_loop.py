"""The loop itself, under a stand-in recorder: what is trained, when it stops, what it tells."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nanscope.errors import UsageError
from nanscope.experiment import loop
from nanscope.experiment.cases import Case
from nanscope.experiment.data import Dataset
from nanscope.experiment.loop import Training
from nanscope.experiment.model import MLP
from nanscope.experiment.progress import Pace, Progress
from nanscope.values import Epoch, Kind, Phase, Site

SITE = Site("layers.final_layer", Kind.OUTPUT)
SAMPLES = 20


@dataclass
class StandIn:
    """A recorder that meets its first non-finite value at step `bad`, and knows `late` steps later."""

    training: Training
    bad: float = math.inf
    late: int = 0
    logged: list[Epoch] = field(default_factory=list)

    @property
    def trouble(self) -> SimpleNamespace | None:
        """Step, phase and site, once they are known."""
        if self.training.step <= self.bad + self.late:
            return None
        return SimpleNamespace(step=self.bad, phase=Phase.FORWARD, site=SITE)

    def latest(self) -> SimpleNamespace:
        """Always the same loss and norm."""
        return SimpleNamespace(step=self.training.step - 1, loss=0.5, worst=SITE, worst_l2=7.0)

    def log_epoch(self, epoch: Epoch) -> None:
        """Keeps it."""
        self.logged.append(epoch)


def dataset() -> Dataset:
    """20 samples whose first pixel is their number, and 8 to test on."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(SAMPLES + 8, 6, generator=generator)
    x[:, 0] = torch.arange(SAMPLES + 8)
    y = torch.randint(10, (SAMPLES + 8,), generator=generator)
    return Dataset("tiny", x[:SAMPLES], y[:SAMPLES], x[SAMPLES:], y[SAMPLES:], 10, standardised=False)


def case(batch_size: int | None = 8, **settings: object) -> Case:
    """A small case: 3 updates per epoch of 8, 8 and 4 rows, unless told otherwise."""
    return Case(**{"batch_size": batch_size, "hidden": (5,), "lr": 0.01, "epochs": 4} | settings)


def trained(
    case: Case, bad: float = math.inf, late: int = 0, on_progress: Callable[[Progress], None] | None = None
) -> tuple[Training, StandIn]:
    """A training run to its end."""
    training = Training(case, dataset(), on_progress)
    recorder = StandIn(training, bad, late)
    training.run(recorder)
    return training, recorder


@pytest.mark.parametrize("batch_size", [1, 8, 20, 64, None])
@pytest.mark.parametrize("settings", [{}, {"optimizer": "adam"}, {"momentum": 0.9}])
def test_weights_are_those_of_a_plain_loop(batch_size: int | None, settings: dict[str, object]) -> None:
    """Bit for bit what a program of a dozen lines trains with the same seed."""
    training, _ = trained(case(batch_size, seed=3, **settings))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = MLP(6, (5,), 10)
    if "optimizer" in settings:
        optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=settings.get("momentum", 0.0))
    shuffler, data, rows = torch.Generator().manual_seed(3), dataset(), min(batch_size or SAMPLES, SAMPLES)
    for _ in range(4):
        for batch in torch.randperm(SAMPLES, generator=shuffler).split(rows):
            optimizer.zero_grad()
            cross_entropy(model(data.train_x[batch]), data.train_y[batch]).backward()
            optimizer.step()
    assert all(
        torch.equal(a, b) for a, b in zip(training.model.parameters(), model.parameters(), strict=True)
    )


@pytest.mark.parametrize(("batch_size", "sizes"), [(1, [1] * 20), (8, [8, 8, 4]), (None, [20])])
def test_every_sample_once_per_epoch_in_a_new_order(batch_size: int | None, sizes: list[int]) -> None:
    """Each epoch is a permutation of the training part, cut into batches, and no two epochs are alike."""
    training = Training(case(batch_size), dataset())
    seen: list[Tensor] = []
    hook = training.model.register_forward_pre_hook(
        lambda module, args: seen.append(args[0][:, 0]) if module.training else None
    )
    training.run(StandIn(training))
    hook.remove()
    assert [len(batch) for batch in seen] == sizes * 4
    epochs = torch.cat(seen).reshape(4, SAMPLES)
    assert torch.equal(epochs.sort(dim=1).values, torch.arange(20.0).expand(4, -1))
    assert all(not torch.equal(a, b) for a, b in pairwise(epochs))


def test_every_epoch_is_tested_and_recorded() -> None:
    """One evaluation per epoch with its steps and updates, given to the recorder as it is kept."""
    training, recorder = trained(case())
    assert [(e.epoch, e.step, e.updates) for e in training.epochs] == [
        (1, 3, 3),
        (2, 6, 3),
        (3, 9, 3),
        (4, 12, 3),
    ]
    assert recorder.logged == training.epochs
    assert training.total == training.step == 12
    assert all(sum(map(sum, e.confusion)) == 8 and math.isfinite(e.loss) for e in training.epochs)


@pytest.mark.parametrize(
    ("bad", "aftermath", "late", "steps", "epochs"),
    [
        (4, 3, 0, 8, [(1, 3), (2, 3), (3, 2)]),
        (4, 0, 0, 5, [(1, 3), (2, 2)]),
        (4, 1, 0, 6, [(1, 3), (2, 3)]),
        (4, 3, 2, 8, [(1, 3), (2, 3), (3, 2)]),
        (4, 0, 2, 7, [(1, 3), (2, 3), (3, 1)]),
        (0, 200, 0, 12, [(1, 3), (2, 3), (3, 3), (4, 3)]),
    ],
    ids=["mid-epoch", "at once", "epoch's end", "known late", "known too late", "training ends first"],
)
def test_aftermath_is_recorded_then_it_stops(
    bad: int, aftermath: int, late: int, steps: int, epochs: list[tuple[int, int]]
) -> None:
    """It goes on for the aftermath, tests the epoch as far as it came, once, and stops."""
    training, recorder = trained(case(aftermath=aftermath), bad, late)
    assert training.step == steps
    assert [(e.epoch, e.updates) for e in recorder.logged] == epochs
    assert recorder.logged[-1].step == steps


def test_seconds_are_those_of_the_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation that takes an hour does not slow the epoch down."""
    now = 0.0

    def slow(*args: Tensor) -> object:
        nonlocal now
        now += 3600
        return tested(*args)

    tested = loop.evaluate
    monkeypatch.setattr(loop, "evaluate", slow)
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: now))
    training = Training(case(), dataset())
    hook = training.model.register_forward_pre_hook(lambda *_: _tick())

    def _tick() -> None:
        nonlocal now
        now += training.model.training

    training.run(StandIn(training))
    hook.remove()
    assert [e.seconds for e in training.epochs] == [3, 3, 3, 3]


def test_progress_tells_where_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Epoch, step, loss, worst site, accuracy, trouble and the latest evaluation, step by step."""
    monkeypatch.setattr(loop.Pace, "due", lambda _: True)
    told: list[Progress] = []
    training, _ = trained(case(aftermath=3), bad=4, on_progress=told.append)
    assert [(p.epoch, p.step) for p in told] == [
        (e, s) for s, e in enumerate([1, 1, 1, 2, 2, 2, 3, 3], 1)
    ] + [(3, 8)]
    assert {(p.epochs, p.total, p.loss, p.worst_l2, p.worst) for p in told} == {(4, 12, 0.5, 7.0, str(SITE))}
    assert [p.trouble for p in told[:4]] == [None] * 4
    assert {p.trouble for p in told[4:]} == {"step 4, forward, layers.final_layer.output"}
    assert [p.evaluation for p in told] == [None] * 3 + training.epochs[:1] * 3 + training.epochs[1:2] * 2 + [
        training.epochs[2]
    ]


def test_progress_accuracy_is_that_of_the_latest_training_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Predictions as they were made in training, over at most the latest samples, not a new forward pass."""
    monkeypatch.setattr(loop.Pace, "due", lambda _: True)
    monkeypatch.setattr(loop, "RECENT", 3)
    told: list[Progress] = []
    training = Training(case(1, epochs=1, lr=0.5), dataset(), told.append)
    hits: list[bool] = []
    labels = {float(x[0]): int(y) for x, y in zip(dataset().train_x, dataset().train_y, strict=True)}

    def spy(module: torch.nn.Module, args: tuple[Tensor], logits: Tensor) -> None:
        if module.training:
            hits.append(int(logits.argmax()) == labels[float(args[0][0, 0])])

    hook = training.model.register_forward_hook(spy)
    training.run(StandIn(training))
    hook.remove()
    expected = [sum(hits[max(0, k - 3) : k]) / min(k, 3) for k in range(1, SAMPLES + 1)]
    assert [p.accuracy for p in told[:SAMPLES]] == pytest.approx(expected)


def test_pace_is_due_once_per_interval() -> None:
    """At once, then not before the interval is over; a long pause is not made up for."""
    times = iter([5.0, 5.05, 5.1, 5.15, 9.0, 9.05, 9.2])
    pace = Pace(0.1, lambda: next(times))
    assert [pace.due() for _ in range(7)] == [True, False, True, False, True, False, True]


@pytest.mark.parametrize("name", ["warp", "", "cuda:99", "meta:x"])
def test_device_that_is_not_here_is_one_line(name: str) -> None:
    """A wrong device is the user's mistake, not a traceback."""
    with pytest.raises(UsageError, match="cannot be used") as caught:
        Training(case(device=name), dataset())
    assert "\n" not in str(caught.value)


def test_random_numbers_of_the_program_are_untouched() -> None:
    """Training draws nothing from the program's own generator."""
    before = torch.get_rng_state()
    trained(case())
    assert torch.equal(torch.get_rng_state(), before)
