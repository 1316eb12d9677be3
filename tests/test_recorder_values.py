"""What the recorder writes, against the slow oracle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

import nanscope
from nanscope.recording.alert import LEARN
from nanscope.run import Run, is_missing
from nanscope.values import Kind
from tests import models
from tests.oracle import Norms, slowly

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


def batches(steps: int, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Random inputs of 8 numbers and 4 classes."""
    generator = torch.Generator().manual_seed(7)
    for _ in range(steps):
        yield torch.randn(rows, 8, generator=generator), torch.randint(4, (rows,), generator=generator)


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The usual loss, of a plain or a structured output."""
    output = model(x)
    return F.cross_entropy(output.scores if isinstance(output, models.Answer) else output, y)


def both(
    model: nn.Module,
    path: Path,
    *,
    rows: int = 3,
    loss: Loss = cross_entropy,
    micro: int = 1,
    steps: int = 45,
) -> tuple[Run, list[Norms]]:
    """Train under the oracle and the recorder at once; the first ten steps are looked at closely."""
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.05)
    with slowly(model, optimizer) as expected, nanscope.record(model, optimizer, path):
        for i, (x, y) in enumerate(batches(steps * micro, rows)):
            loss(model, x, y).backward()
            if (i + 1) % micro == 0:
                optimizer.step()
                optimizer.zero_grad()
    return nanscope.open_run(path), expected


def check(run: Run, expected: list[Norms], *, tolerance: float = 1e-5) -> None:
    """Every recorded norm equals the oracle's, every norm of the oracle's watched sites was recorded."""
    assert len(run) == len(expected)
    wrong = []
    for site in run.sites:
        if site.kind is Kind.INPUT:
            continue
        for step, got in enumerate(run.series(site)):
            want = expected[step].get(str(site))
            if want is None or is_missing(got):
                unlooked = site.kind in (Kind.WEIGHT, Kind.UPDATE) and step >= LEARN
                agreed = bool(is_missing(got)) and (want is None or unlooked)
            else:
                agreed = np.isclose(got, want, rtol=tolerance, atol=1e-12)
            if not agreed:
                wrong.append((step, str(site), got, want))
    assert not wrong, wrong[:5]


AWKWARD = {
    "mlp": models.mlp,
    "wide": models.wide,
    "broad": models.broad,
    "in place": models.in_place,
    "convolutional": models.convolutional,
    "reused": models.Reused,
    "tied": models.Tied,
    "structured": models.Structured,
    "recurrent": models.Recurrent,
}


@pytest.mark.parametrize("rows", [1, 5, 60])
@pytest.mark.parametrize("name", AWKWARD)
def test_norms_match_the_oracle(name: str, rows: int, tmp_path: Path) -> None:
    """Outputs, gradients of outputs, parameters and their gradients, for every awkward model."""
    torch.manual_seed(1)
    if name == "convolutional" and rows == 1:
        rows = 2  # batch normalisation needs two values for a channel of one pixel
    check(*both(AWKWARD[name](), tmp_path / "run.h5", rows=rows))


def penalised(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """A weight penalty written into the loss: a second use of every weight."""
    return cross_entropy(model, x, y) + 1e-2 * sum((p**2).sum() for p in model.parameters())


def twice(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Two calls of the model in one loss."""
    return cross_entropy(model, x, y) + cross_entropy(model, -x, y)


@pytest.mark.parametrize("loss", [penalised, twice])
def test_a_weight_used_twice_is_not_an_outer_product(loss: Loss, tmp_path: Path) -> None:
    """At one row the wide layers would take the factors: the graph shows the second use."""
    torch.manual_seed(1)
    check(*both(models.wide(), tmp_path / "run.h5", rows=1, loss=loss))


def test_gradient_accumulation_counts_all_microsteps(tmp_path: Path) -> None:
    """Three backward passes per step, one row each: gradients accumulate, outputs count together."""
    torch.manual_seed(1)
    run, expected = both(models.wide(), tmp_path / "run.h5", rows=1, micro=3)
    check(run, expected)
    assert run.scalar("samples").tolist() == [3.0] * 45


def test_a_hook_that_changes_a_gradient_is_respected(tmp_path: Path) -> None:
    """Hooks on a parameter or on a layer's output change the gradient that is recorded."""
    torch.manual_seed(1)
    model = models.wide()
    model[2].weight.register_hook(lambda g: g * 3)
    model[0].register_forward_hook(lambda _m, _a, out: out.register_hook(lambda g: g * 5) and None)
    check(*both(model, tmp_path / "run.h5", rows=1))


def test_a_changed_output_gradient_after_our_hook_is_respected(tmp_path: Path) -> None:
    """The user's own tensor hook runs after ours: the product of what we saw would be wrong."""
    torch.manual_seed(1)
    model = models.wide()

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        hidden = model[:3](x)
        hidden.register_hook(lambda g: g * 7)
        return F.cross_entropy(model[3:](hidden), y)

    run, expected = both(model, tmp_path / "run.h5", rows=1, loss=loss)
    gradient = next(s for s in run.sites if str(s) == "2.weight.grad")
    assert np.allclose(run.series(gradient), [norms["2.weight.grad"] for norms in expected], rtol=1e-5)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_parts_count_once(reentrant: bool, tmp_path: Path) -> None:
    """A part of the forward that runs again in the backward is recorded once, like its plain twin."""
    runs = []
    for number, model in enumerate((models.Checkpointed(reentrant=reentrant), None)):
        torch.manual_seed(1)
        fresh = models.Checkpointed(reentrant=reentrant)
        if model is None:
            fresh.forward = lambda x, m=fresh: m.head(m.body(x))  # type: ignore[method-assign]
        runs.append(both(fresh, tmp_path / f"{number}.h5")[0])
    for ours, plain in zip(*(run.sites for run in runs), strict=True):
        assert np.allclose(runs[0].series(ours), runs[1].series(plain), rtol=1e-5, equal_nan=True), ours


def test_the_loss_and_the_logits(tmp_path: Path) -> None:
    """Loss, learning rate, margin, largest logit and predicted classes equal what plain torch says."""
    torch.manual_seed(1)
    model, want = models.mlp(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
    with nanscope.record(model, optimizer, tmp_path / "run.h5"):
        for x, y in batches(6, 5):
            optimizer.zero_grad()
            logits = model(x)
            loss = F.cross_entropy(logits, y)
            loss.backward()
            optimizer.step()
            top = logits.detach().double().sort(1).values
            want.append(
                [
                    loss.item(),
                    0.25,
                    5.0,
                    logits.abs().max().item(),
                    max((logits[i] - logits[j]).max().item() for i in range(5) for j in range(5)),
                    float((top[:, -1] - top[:, -2]).mean()),
                    0.0,
                ]
            )
            want[-1] += [float((logits.argmax(1) == c).sum()) for c in range(4)]
    run = nanscope.open_run(tmp_path / "run.h5")
    assert run.scalars[:5] == ("loss", "lr", "samples", "logits_abs_max", "logits_spread")
    got = np.stack([run.scalar(name) for name in run.scalars], axis=1)
    assert np.allclose(got, want, rtol=1e-5)


def test_a_regression_has_no_predicted_classes(tmp_path: Path) -> None:
    """A (batch, columns) output without a choice between classes in the loss is not counted as classes."""

    def squared(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return ((model(x) - F.one_hot(y, 4)) ** 2).mean()

    run, _ = both(models.mlp(), tmp_path / "run.h5", loss=squared)
    assert "logits_margin" in run.scalars
    assert not any(name.startswith("predicted_0") for name in run.scalars)


def test_named_logits(tmp_path: Path) -> None:
    """The user may name the module whose output holds the logits, of any leading shape."""
    model = nn.Sequential(nn.Linear(8, 12), nn.Unflatten(1, (3, 4)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with nanscope.record(model, optimizer, tmp_path / "run.h5", logits="1"):
        for x, _ in batches(2, 5):
            model(x).sum().backward()
            optimizer.step()
    run = nanscope.open_run(tmp_path / "run.h5")
    assert sum(run.scalar(f"predicted_{c}")[0] for c in range(4)) == 15


def test_a_norm_beyond_float32_is_not_infinite(tmp_path: Path) -> None:
    """Squares overflow above 1.8e19 though every value is finite: the true norm is recorded."""
    model = nn.Linear(4, 4, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with nanscope.record(model, optimizer, tmp_path / "run.h5") as recorder:
        for _ in range(3):
            model(torch.full((1, 4), 1e25)).sum().mul(1e-30).backward()
            optimizer.step()
        assert recorder.trouble is None
    run = nanscope.open_run(tmp_path / "run.h5")
    entry = run.sites[0]
    assert np.allclose(run.series(entry), 2e25, rtol=1e-6)
    assert run.series(entry, "inf_count").tolist() == [0, 0, 0]


def test_counts_of_nan_and_inf(tmp_path: Path) -> None:
    """Where a norm is not finite the NaN and the infinite elements are counted, in each kind of place."""
    model = nn.Linear(4, 4, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with nanscope.record(model, optimizer, tmp_path / "run.h5") as recorder:
        for value in (1.0, float("inf"), 1.0):
            optimizer.zero_grad()
            model(torch.tensor([[value, 0.0, 0.0, float("nan") if value > 1 else 0.0]])).sum().backward()
            optimizer.step()
        assert recorder.trouble is not None
        assert (recorder.trouble.step, str(recorder.trouble.site)) == (1, "model.input")
    run = nanscope.open_run(tmp_path / "run.h5")
    counts = {
        str(s): (run.series(s, "nan_count")[1], run.series(s, "inf_count")[1])
        for s in run.sites
        if run.has(s, "nan_count")
    }
    assert counts["model.input"] == (1, 1)
    assert counts["model.output"] == (4, 0)
    assert counts["weight.grad"] == (4, 4)
    (state,) = run.events_of("state")
    assert (state["step"], state["parameters"], state["buffers"]) == (1, {}, {})


def test_dead_units_are_those_silent_for_a_thousand_samples(tmp_path: Path) -> None:
    """The dead fraction appears once the window is full and counts exactly the silenced units."""
    torch.manual_seed(1)
    model = models.mlp()
    with torch.no_grad():
        model[0].bias[:5] = -1e6
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with nanscope.record(model, optimizer, tmp_path / "run.h5"):
        for x, y in batches(25, 50):
            cross_entropy(model, x, y).backward()
            optimizer.step()
    run = nanscope.open_run(tmp_path / "run.h5")
    site = next(s for s in run.sites if str(s) == "1.output")
    dead = run.series(site, "dead_fraction")
    assert is_missing(dead[:19]).all()
    assert dead[~is_missing(dead)].tolist() == [pytest.approx(5 / 16)]


def test_dead_units_are_told_of_a_step_whose_weights_are_measured(tmp_path: Path) -> None:
    """Two windows are full within the first steps, in which the weights are looked at as well."""
    torch.manual_seed(1)
    model = models.mlp()
    with torch.no_grad():
        model[0].bias[:5] = -1e6
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with nanscope.record(model, optimizer, tmp_path / "run.h5"):
        for x, y in batches(5, 1000):
            cross_entropy(model, x, y).backward()
            optimizer.step()
    run = nanscope.open_run(tmp_path / "run.h5")
    dead = run.series(next(s for s in run.sites if str(s) == "1.output"), "dead_fraction")
    assert dead[~is_missing(dead)].tolist() == [pytest.approx(5 / 16)] * 2


@pytest.mark.parametrize("scale", [1e-22, 1e-19, 1e19, 1e30])
@pytest.mark.parametrize("width", [8, 80_000])
def test_norms_whose_squares_float32_does_not_hold(scale: float, width: int, tmp_path: Path) -> None:
    """Tiny and huge, short and long: the true norm, and nothing wrong is seen in it."""
    model = nn.Linear(width, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    x = torch.rand(3, width, generator=torch.Generator().manual_seed(0)) * scale
    with nanscope.record(model, optimizer, tmp_path / "run.h5") as recorder:
        for _ in range(13):
            optimizer.zero_grad()
            model(x).sum().backward()
            optimizer.step()
    run = nanscope.open_run(tmp_path / "run.h5")
    (site,) = (site for site in run.sites if site.kind is Kind.INPUT)
    expected = float(np.linalg.norm(x.double().numpy()))
    assert run.series(site) == pytest.approx([expected] * 13, rel=1e-5)
    assert recorder.trouble is None
