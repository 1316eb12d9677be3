"""Recorded trainings in mixed precision: what a gradient scaler does is in the run file, and is no alarm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

import nanscope
from nanscope.run import Run
from nanscope.values import Verdict

STEPS = 40


def trained(path: Path, scale: float, *, fused: bool = False, poison: int = -1, given: bool = True) -> Run:
    """Train in float16 with a scale to begin with; at step `poison` an input is infinite."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 80), nn.ReLU(), nn.Linear(80, 80), nn.ReLU(), nn.Linear(80, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1_000)
    x, y = torch.randn(16, 20), torch.randint(4, (16,))
    with nanscope.record(model, optimizer if given else None, path) as recorder:
        for number in range(STEPS):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16):
                loss = F.cross_entropy(model(x * (np.inf if number == poison else 1.0)).float(), y)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        assert (recorder.trouble is None) == (poison < 0)
    return nanscope.open_run(path)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_a_skipped_update_is_a_step(tmp_path: Path, *, fused: bool, given: bool) -> None:
    """The scale finds its level in two skips: as many rows as iterations, and nothing is wrong."""
    run = trained(tmp_path / "run.h5", 2.0**20, fused=fused, given=given)
    skipped, scale = run.scalar("skipped"), run.scalar("loss_scale")
    assert len(run) == STEPS
    assert skipped[0] == 1
    assert skipped[-20:].sum() == 0
    assert scale[0] == 2.0**20
    assert (scale[1:] == np.where(skipped[:-1] == 1, scale[:-1] / 2, scale[:-1])).all()
    assert not np.isnan(run.scalar("lr")).any()
    diagnosis = nanscope.diagnose(run)
    assert diagnosis.verdict is Verdict.HEALTHY
    assert [finding.slug for finding in diagnosis.findings] == ["scaler-skip"]


def test_numbers_do_not_depend_on_the_scale(tmp_path: Path) -> None:
    """The same training under two scales that fit: the same loss, the same gradients."""
    small, large = trained(tmp_path / "a.h5", 4.0), trained(tmp_path / "b.h5", 1024.0)
    assert small.scalar("loss") == pytest.approx(large.scalar("loss"), rel=1e-3)
    for site in small.sites:
        if site.kind in ("grad", "grad_output"):
            assert small.series(site) == pytest.approx(large.series(site), rel=2e-2)  # float16 rounds


def test_a_forward_that_breaks_is_trouble_although_the_update_is_skipped(tmp_path: Path) -> None:
    """The scaler hides the gradients of a NaN loss; the loss itself is none the less not finite."""
    run = trained(tmp_path / "run.h5", 1024.0, poison=20)
    assert run.scalar("skipped")[20] == 1
    assert np.isnan(run.scalar("loss")[20])
