"""Which runs leave a run file: record(keep_run=...)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

import nanscope
from nanscope.errors import UsageError
from nanscope.recording import sink
from nanscope.recording.sink import KeepRun
from nanscope.run import Floats, Run
from nanscope.values import Site, Verdict


def _train(keep: KeepRun, path: Path, *, steps: int = 6, bad: int = -1) -> nanscope.Recorder:
    """A training with a bad target in one step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with nanscope.record(model, optimizer, path, keep_run=keep) as recorder:
        for step in range(steps):
            optimizer.zero_grad()
            target = torch.full((2, 1), float("inf") if step == bad else 1.0)
            mse_loss(model(torch.randn(2, 3)), target).backward()
            optimizer.step()
    return recorder


@pytest.mark.parametrize(
    ("keep", "steps", "kept"),
    [
        ("always", 0, True),
        ("trained", 0, False),
        ("trained", 1, True),
        ("trouble", 0, False),
        ("trouble", 6, False),
    ],
)
def test_healthy_runs(tmp_path: Path, keep: KeepRun, steps: int, kept: bool) -> None:
    """Nothing is left of a run that nobody wanted, and the recorder says so."""
    path = tmp_path / "deep" / "run.h5"
    recorder = _train(keep, path, steps=steps)
    assert recorder.path == (path if kept else None)
    assert path.exists() == kept
    assert recorder.steps == steps


def run_column(run: Run, site: Site | None, stat: str) -> Floats:
    """All of it."""
    return run.source.column(run.index(site, stat), 0, len(run))


@pytest.mark.parametrize("bad", [0, 3, 5])
def test_trouble_writes_down_what_has_waited(tmp_path: Path, bad: int) -> None:
    """The file holds the same norms and origin as one that was written from the beginning."""
    for keep in ("always", "trouble"):
        _train(keep, tmp_path / f"{keep}.h5", bad=bad)
    one, other = (nanscope.open_run(tmp_path / f"{keep}.h5") for keep in ("always", "trouble"))
    assert np.array_equal(one.steps, other.steps)
    columns = [
        (None, "loss"),
        (None, "lr"),
        *((site, "l2") for site in one.sites if site.kind in ("output", "grad")),
    ]
    assert all(
        np.array_equal(run_column(one, *each), run_column(other, *each), equal_nan=True) for each in columns
    )
    kinds = [[event["kind"] for event in run.events] for run in (one, other)]
    assert all("origin" in each and "state" in each for each in kinds)
    diagnoses = [nanscope.diagnose(run) for run in (one, other)]
    assert diagnoses[0].verdict is diagnoses[1].verdict is Verdict.DIVERGED
    assert repr(diagnoses[0].origin) == repr(diagnoses[1].origin)  # as text: a NaN is not equal to itself


def test_a_scalar_of_the_users_own(tmp_path: Path) -> None:
    """What the user logs is wanted: the run leaves a file."""
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with nanscope.record(model, optimizer, tmp_path / "run.h5", keep_run="trouble") as recorder:
        for step in range(3):
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
            recorder.log(mine=float(step))
    assert nanscope.open_run(tmp_path / "run.h5").scalar("mine").tolist() == [0.0, 1.0, 2.0]


def test_rows_that_grow_too_many_go_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded: beyond the limit the run is written as any other."""
    monkeypatch.setattr(sink, "MOST_WAITING", 100)
    recorder = _train("trouble", tmp_path / "run.h5")
    assert recorder.path == tmp_path / "run.h5"
    assert len(nanscope.open_run(tmp_path / "run.h5")) == 6


def test_an_unknown_word(tmp_path: Path) -> None:
    """It is told what may be said instead."""
    with pytest.raises(UsageError, match="trained"):
        nanscope.record(nn.Linear(1, 1), None, tmp_path / "run.h5", keep_run="never")  # type: ignore[arg-type]
