"""The job with the real recorder: what is in the run file when it has ended, well or badly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import nanscope
from nanscope.experiment.cases import Case
from nanscope.experiment.data import Dataset, load_dataset
from nanscope.experiment.loop import Outcome, Training, train
from nanscope.experiment.progress import Progress

HEALTHY = Case(batch_size=256, hidden=(16, 16), epochs=3)
DIVERGING = Case(batch_size=1, hidden=(64, 64), lr=5.0, epochs=2, aftermath=20)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """The digits."""
    return load_dataset(Case())


@pytest.fixture
def trained(dataset: Dataset, tmp_path: Path) -> Callable[..., Outcome]:
    """Trains a case into a run file of its own."""
    return lambda case, on_progress=None: train(case, dataset, tmp_path / "run.h5", on_progress)


def test_healthy_run_is_complete(trained: Callable[..., Outcome], dataset: Dataset) -> None:
    """Every step, every evaluation and the settings of the case are in the file."""
    outcome = trained(HEALTHY)
    run = nanscope.open_run(outcome.path)
    assert (outcome.interrupted, outcome.steps, len(run), run.state) == (False, 18, 18, "finished")
    assert run.epochs == outcome.epochs
    assert [epoch.updates for epoch in run.epochs] == [6, 6, 6]
    assert run.header.config == HEALTHY.config(dataset)
    assert run.scalar("samples").tolist() == [256, 256, 256, 256, 256, 157] * 3
    assert "layers.layer2_activation.output" in map(str, run.sites)


def test_recording_changes_no_weight(dataset: Dataset, tmp_path: Path) -> None:
    """Evaluations between the steps included, weights are those of the same training unrecorded."""

    class NoRecorder:
        trouble = None

        def latest(self) -> None:
            """Nothing is known."""

        def log_epoch(self, epoch: object) -> None:
            """Nothing is kept."""

    bare, recorded = Training(HEALTHY, dataset), Training(HEALTHY, dataset)
    bare.run(NoRecorder())
    with nanscope.record(recorded.model, recorded.optimizer, tmp_path / "run.h5") as recorder:
        recorded.run(recorder)
    pairs = zip(bare.model.parameters(), recorded.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_divergence_and_its_aftermath_are_on_record(trained: Callable[..., Outcome]) -> None:
    """The rows reach as far beyond the first non-finite loss as asked for, and the ending is class 0."""
    told: list[Progress] = []
    outcome = trained(DIVERGING, told.append)
    loss = nanscope.open_run(outcome.path).scalar("loss")
    first = int(np.flatnonzero(~np.isfinite(loss))[0])
    assert len(loss) == outcome.steps == first + 1 + DIVERGING.aftermath
    assert told[-1].trouble is not None
    assert told[-1].trouble.startswith(f"step {first}, ")
    last = outcome.epochs[-1]
    assert np.isnan(last.loss)
    assert [sum(column) for column in zip(*last.confusion, strict=True)] == [360] + [0] * 9


def test_first_bad_step_is_that_of_a_plain_loop(dataset: Dataset, trained: Callable[..., Outcome]) -> None:
    """A dozen lines of PyTorch without nanscope meet the first non-finite loss at the same step."""
    loss = nanscope.open_run(trained(DIVERGING).path).scalar("loss")
    plain = Training(DIVERGING, dataset)
    order = torch.randperm(1437, generator=torch.Generator().manual_seed(DIVERGING.seed))
    steps = 0
    for x, y in zip(dataset.train_x[order].split(1), dataset.train_y[order].split(1), strict=True):
        plain.optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(plain.model(x), y)
        if not value.isfinite():
            break
        value.backward()
        plain.optimizer.step()
        steps += 1
    assert np.flatnonzero(~np.isfinite(loss))[0] == steps


def test_ctrl_c_leaves_a_readable_file(trained: Callable[..., Outcome]) -> None:
    """An interrupted training evaluates nothing more and keeps every completed step."""

    def interrupt(_: Progress) -> None:
        raise KeyboardInterrupt

    outcome = trained(HEALTHY, interrupt)
    run = nanscope.open_run(outcome.path)
    assert (outcome.interrupted, outcome.steps, outcome.epochs) == (True, 1, ())
    assert (len(run), run.state, run.epochs) == (1, "interrupted", ())


def test_a_taken_name_is_not_overwritten(dataset: Dataset, tmp_path: Path) -> None:
    """The second run of a name gets a number, and the first stays as it was."""
    case = replace(HEALTHY, epochs=1)
    first = train(case, dataset, tmp_path / "run.h5")
    before = first.path.read_bytes()
    with pytest.warns(RuntimeWarning, match="exists"):
        second = train(case, dataset, tmp_path / "run.h5")
    assert second.path == tmp_path / "run-2.h5"
    assert first.path.read_bytes() == before
