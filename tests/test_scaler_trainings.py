"""Real trainings in float16 with torch's own scaler: what the detectors make of their skips."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import SGD, Adam

from nanscope.diagnosis import diagnose
from nanscope.recording.scaling import Scalers
from nanscope.reporters import REPORTERS
from nanscope.run import Run
from nanscope.values import Diagnosis, Phase, Severity, Verdict
from nanscope.view import build_view
from tests.builders import make_run
from tests.detectors.scaled import scaled_run

Loss = Callable[[Tensor, int], Tensor]


def trained(loss_of: Loss, steps: int, *, init: float = 2.0**16, interval: int = 2000) -> Run:
    """Train a small regression under autocast and keep its series, loss and gradients unscaled."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = Adam(model.parameters(), 1e-2)
    scaler = GradScaler("cpu", init_scale=init, growth_interval=interval)
    rows: dict[str, list[Any]] = {"loss": [], "out": [], "grad": [], "weight": []}
    scalars: dict[str, list[Any]] = {"skipped": [], "loss_scale": []}
    scalers = Scalers(lambda own: own is optimizer, lambda _: None, lambda hook: hook)
    told = optimizer.register_step_post_hook(lambda own, *_: scalers.defers(own) and None)
    scalers.attach()
    for step in range(steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            out = model(torch.randn(16, 8))
            loss = loss_of(out, step)
        scaler.scale(loss).backward()
        scale = scaler.get_scale()
        rows["loss"].append(float(loss.detach()))
        rows["out"].append(float(out.detach().double().norm()))
        rows["grad"].append(float(model[0].weight.grad.double().norm()) / scale if scale else None)
        scaler.step(optimizer)
        scaler.update()
        rows["weight"].append(float(model[0].weight.detach().double().norm()))
        for name, value in scalers.take().items():
            scalars[name].append(value)
    scalers.remove()
    told.remove()
    return make_run(
        outputs={"0": rows["out"]},
        grads={"0.weight": rows["grad"]},
        weights={"0.weight": rows["weight"]},
        loss=rows["loss"],
        lr=1e-2,
        dtype="float16",
        scalars=scalars,
    )


def rules(answer: Diagnosis) -> list[str]:
    """Rules of the findings."""
    return sorted(finding.rule for finding in answer.findings)


def test_a_scaler_at_work() -> None:
    """From 2**32 down to its level, with regrowth every 20 steps and a skip after it: healthy."""
    run = trained(lambda out, _: out.float().square().mean(), 150, init=2.0**32, interval=20)
    assert run.scalar("skipped").sum() >= 10
    answer = diagnose(run)
    assert (answer.verdict, rules(answer)) == (Verdict.HEALTHY, ["NS104"])
    assert [cause.id for cause in answer.causes] == ["loss-scale-overflow"]


def test_a_scaler_that_has_nothing_to_do() -> None:
    """No skip, no word."""
    answer = diagnose(trained(lambda out, _: out.float().square().mean(), 60, init=128.0))
    assert (answer.verdict, answer.findings) == (Verdict.HEALTHY, ())


def test_a_gradient_that_is_infinite_at_any_scale() -> None:
    """A root at 0 from step 55 on: the loss stays finite, the scale sinks, the training stands still."""

    def loss_of(out: Tensor, step: int) -> Tensor:
        loss = out.float().square().mean()
        return loss + (0 * out.float()).sum().sqrt() if step >= 55 else loss

    run = trained(loss_of, 220, init=2.0**8)
    answer = diagnose(run)
    assert np.isfinite(run.scalar("loss")).all()
    assert answer.verdict is Verdict.SUSPICIOUS
    assert rules(answer) == ["NS104", "NS307", "NS402"]
    still = next(finding for finding in answer.findings if finding.rule == "NS402")
    sunk = next(finding for finding in answer.findings if finding.rule == "NS307")
    assert (still.step, sunk.severity) == (55, Severity.ERROR)
    assert sunk.evidence["to"] == 0.0
    assert answer.summary.startswith("nothing diverged, but ")
    assert not answer.causes


def test_a_loss_that_overflows_in_float16() -> None:
    """Values beyond 65,504 at every step: diverged, in the loss, however often it is skipped."""

    def loss_of(out: Tensor, step: int) -> Tensor:
        return (out.abs() * (1.0 if step < 40 else 1e30)).float().mean()

    answer = diagnose(trained(loss_of, 80))
    assert answer.verdict is Verdict.DIVERGED
    assert answer.origin is not None
    assert (answer.origin.step, answer.origin.phase) == (40, Phase.LOSS)
    assert "loss-scale-overflow" not in [cause.id for cause in answer.causes]


@pytest.mark.parametrize("name", ["text", "json"])
def test_the_findings_as_they_are_shown(name: str) -> None:
    """Both reporters tell every finding of a training that stands still, and its numbers."""
    run = scaled_run(300, [0, *range(250, 300)])
    out = io.StringIO()
    REPORTERS[name](build_view(run, diagnose(run)), out)
    words = " ".join(out.getvalue().split())
    assert "the training stands still since step 250: all 50 updates since were skipped" in words
    assert "the loss scale sinks from 32,768 at step 250" in words
    assert "skipped the update in 51 of 300 steps" in words
    if name == "json":
        known = {finding["rule"]: finding for finding in json.loads(out.getvalue())["findings"]}
        assert known["NS402"]["severity"] == "error"
        assert known["NS402"]["evidence"]["nonfinite_gradients"] == 50


def test_the_scaler_by_hand_moves_as_torchs() -> None:
    """The scales of `scaled_run` are those of a real scaler that meets the same gradients."""
    skips = [0, 3, 4, 25, 26, 27]
    weight = torch.ones(2, requires_grad=True)
    optimizer, scaler = SGD([weight], 0.1), GradScaler("cpu", growth_interval=10)
    scales = []
    for step in range(60):
        scaler.scale(torch.ones(()))
        scales.append(scaler.get_scale())
        weight.grad = torch.full((2,), np.inf if step in skips else 1.0)
        scaler.step(optimizer)
        scaler.update()
    assert scaled_run(60, skips, interval=10).scalar("loss_scale").tolist() == scales
