"""The benchmark of overhead runs, and nanscope finds what it says it finds; no time is asserted."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch.nn.utils import parameters_to_vector

from tests.benchmarks import found
from tests.benchmarks.found import FAILURES, Failure, answer, judge
from tests.benchmarks.overhead import main
from tests.benchmarks.overhead_memory import peak
from tests.benchmarks.overhead_models import SUBJECTS, Subject, Training
from tests.benchmarks.overhead_profile import HOME, shares
from tests.benchmarks.overhead_rivals import RECORDED, Handwritten, Paced, Recorded, never, often
from tests.benchmarks.overhead_timing import BARE, LOOKED, Plan, Times, block, measure

SHORT = Plan(models=1, rounds=0, settle=1, longest=2, warm=3, small=True)
NAMED = {failure.name: failure for failure in FAILURES}


def _broken_in(training: Training, steps: int) -> int | None:
    """The first step after which a loss, a gradient or a parameter was not finite."""
    for step in range(steps):
        loss = training.gradients()
        training.update()
        state = [each for p in training.model.parameters() for each in (p, p.grad) if each is not None]
        if not all(torch.isfinite(each).all() for each in (loss, *state)):
            return step
    return None


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """One, as in the program: with small tensors, most of the time would be threads that wait for others."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _run(*arguments: str) -> str:
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def _subject(name: str) -> Subject:
    (subject,) = (subject for subject in SUBJECTS if subject.name == name)
    return subject


@pytest.mark.parametrize("failure", [f for f in FAILURES if f.within == 0], ids=lambda f: f.name)
def test_failures_happen_where_they_are_planted(failure: Failure) -> None:
    """By plain looks at everything, without any hook."""
    assert _broken_in(failure.build(), failure.steps) == failure.step


def test_the_collapse_is_one() -> None:
    """Before it the classes are told apart; soon after it all samples get one class, at a finite loss."""
    failure = NAMED["collapse to one class"]
    training = failure.build()
    x, y = found.batch(failure.steps)
    accuracies, classes = [], []
    for _ in range(failure.steps):
        assert training.gradients().isfinite()
        training.update()
        predicted = training.model(x).argmax(1)
        accuracies.append((predicted == y).double().mean().item())
        classes.append(len(predicted.unique()))
    assert accuracies[found.COLLAPSED - 1] > 0.6
    assert set(classes[found.COLLAPSED + failure.within :]) == {1}


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_hooks_by_hand_are_judged_alike() -> None:
    """They see an overflow in time, the update a step late, no collapse, and cry wolf at a mask."""
    judged = [answer(failure, Handwritten).judged for failure in FAILURES]
    assert judged == ["right", "right", "late", "right", "silent", "false alarm"]


@pytest.mark.parametrize(
    ("said", "judged", "early"),
    [
        ([], "silent", 0),
        ([5], "wrong", 0),
        ([5, 10], "right", 1),
        ([12], "right", 0),
        ([13], "late", 0),
    ],
)
def test_judging(said: list[int], judged: str, early: int) -> None:
    """By the first thing said from the failure on."""
    failure = Failure("", found.masked, 10, within=2)
    given = judge(failure, [(step, "") for step in said])
    assert (given.judged, given.early) == (judged, early)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("name", ["mlp-32", "transformer", "resnet18"])
def test_small_models_are_measured(name: str) -> None:
    """In the columns that are always there, and the recorder saw the sites."""
    times = measure(_subject(name), SHORT)
    assert times.sites > 20
    assert {BARE, RECORDED, LOOKED} <= set(times.seconds)
    assert times.ratios(BARE).tolist() == [1.0]


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_the_full_size_tiny_model_has_600_sites() -> None:
    """What the bar per site counts on."""
    plan = dataclasses.replace(SHORT, small=False)
    assert measure(_subject("tiny-600"), plan).sites >= 600


def test_sums_of_measured_times() -> None:
    """Looks count with their share; rounds that a column sat out do not count."""
    times = Times(sites=10)
    for bare, recorded, looked in ((1.0, 1.1, 1.6), (2.0, 2.2, 3.2), (1.0, 1.1, float("nan"))):
        times.add(BARE, bare, 0)
        times.add(RECORDED, recorded, 0)
        times.add(LOOKED, looked, 0)
    assert times.recorded() == pytest.approx(1.1 + 0.02)
    assert times.per_site() == pytest.approx(1.2e4)


def test_memory_is_measured_in_a_process_of_its_own() -> None:
    """Torch alone takes more than 100 MB, a training of a ResNet more than its weights and gradients."""
    found_peak = peak(_subject("resnet18"), RECORDED, steps=2, times=1, small=True)
    model = _subject("resnet18").build(True, "cpu").model
    assert found_peak.process > 1e8
    assert found_peak.training > 8 * parameters_to_vector(model.parameters()).numel()


def test_shares_of_a_profile() -> None:
    """A function of nanscope has its own time and that of the C functions it called, nobody else's."""
    ours, other, builtin = (f"{HOME}/a.py", 1, "f"), ("/x.py", 1, "g"), ("~", 0, "<norm>")
    stats = {
        ours: (4, 4, 1.0, 9.0, {}),
        other: (1, 1, 5.0, 5.0, {ours: (1, 1, 5.0, 5.0)}),
        builtin: (3, 3, 3.0, 3.0, {ours: (2, 2, 2.0, 2.0), other: (1, 1, 1.0, 1.0)}),
    }
    own, calls = shares(stats)
    assert (dict(own), dict(calls)) == ({ours: 3.0}, {ours: 4})


def test_the_program_prints_its_tables() -> None:
    """One small model from end to end; nanscope names the right step, or is quiet where nothing is wrong."""
    printed = _run("--short", "--only", "mlp-1", "--part", "time", "--part", "found")
    assert "multiples of the bare step" in printed
    for failure in FAILURES:
        (line,) = (line for line in printed.splitlines() if failure.name in line)
        judged = line.split("│")[3].strip()
        assert judged.partition(" ")[0] == ("quiet" if failure.step is None else "right"), judged
        assert "false" not in judged


def test_the_profile_names_functions_of_the_recorder() -> None:
    """They come with file and line."""
    assert re.search(r"recording/\w+\.py:\d+", _run("--short", "--profile", "--only", "mlp-1"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_its_part_is_skipped() -> None:
    """In one line."""
    assert _run("--device", "cuda") == "skipped: there is no GPU here\n"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_nothing_waits_and_nothing_is_lost() -> None:
    """No host-device sync in any step, and a NaN is named in its step; the time is not asserted."""
    lines = _run("--device", "cuda", "--short").splitlines()
    judged = [line for line in lines if "host waited" in line or "NaN" in line or "off by" in line]
    assert len(judged) == 3
    assert not any("MISSED" in line for line in judged)


def test_a_block_times_its_own_rows(tmp_path: Path) -> None:
    """Rows of untimed steps are written before the clock starts, those of timed steps before it stops."""
    recorded = Recorded(_subject("mlp-1").build(True, "cpu"), tmp_path)
    events: list[str] = []

    class Watched:
        on, off = recorded.on, recorded.off

        def step(self) -> None:
            recorded.step()
            events.append("step")

        def flush(self) -> None:
            recorded.flush()
            ledger = recorded.recorder._ledger
            assert ledger is not None
            events.append(f"{len(ledger._waiting)} waiting")

    block(Watched(), 2, settle=1)
    assert events == ["step", "0 waiting", "step", "step", "0 waiting"]
    recorded.close()


def test_looks_are_paced(tmp_path: Path) -> None:
    """Never, or in every fourth step, of which those of one sample see the weights in every twentieth."""
    recorded = Recorded(_subject("mlp-1").build(True, "cpu"), tmp_path)
    block(recorded, 12)
    ledger = recorded.recorder._ledger
    assert ledger is not None
    alert = ledger.alert
    calm = [step for step in range(12, 1000) if alert.due(step)]
    seen = {}
    for pace in (never, often):
        paced = Paced(recorded, pace)
        paced.on()
        seen[pace] = [[s for s in range(12, 50) if f(s)] for f in (alert.due, lambda s: alert.looks(s, 1))]
        paced.off()
    assert seen == {never: [[], []], often: [list(range(12, 50, 4)), [20, 40]]}
    assert [step for step in range(12, 1000) if alert.due(step)] == calm == list(range(100, 1000, 100))
    recorded.close()
