"""Models under torch.compile: the same numbers where anything can be seen, and what cannot is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch.nn import functional as F  # noqa: N812 - the field's name for it

import nanscope
from nanscope.run import Run, is_missing

X, Y = torch.randn(4, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3])
Made = tuple[nn.Module, Callable[..., torch.Tensor]]


def plain() -> Made:
    """Not compiled."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    return model, model


def wrapped() -> Made:
    """The model is recorded, its compiled wrapper is called."""
    model, _ = plain()
    return model, torch.compile(model, backend="aot_eager")


def wrapper() -> Made:
    """The wrapper is recorded and called."""
    compiled = torch.compile(plain()[0], backend="aot_eager")
    return compiled, compiled


def in_place() -> Made:
    """The model compiles itself."""
    model, _ = plain()
    model.compile(backend="aot_eager")
    return model, model


def in_part() -> Made:
    """One layer is compiled."""
    model, _ = plain()
    model[0] = torch.compile(model[0], backend="aot_eager")
    return model, model


def trained(made: Made, path: Path) -> Run:
    """Fifteen recorded steps."""
    model, call = made
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with nanscope.record(model, optimizer, path):
        for _ in range(15):
            optimizer.zero_grad()
            F.cross_entropy(call(X), Y).backward()
            optimizer.step()
    return nanscope.open_run(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("make", [wrapped, wrapper, in_place, in_part])
def test_a_compiled_model(make: Callable[[], Made], tmp_path: Path) -> None:
    """Whatever is seen equals what is seen without the compiler; loss and gradients always are."""
    expected = trained(plain(), tmp_path / "plain.h5")
    torch._dynamo.reset()
    counters.clear()
    run = trained(make(), tmp_path / "run.h5")
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    assert [str(site) for site in run.sites] == [str(site) for site in expected.sites]
    assert run.scalar("loss") == pytest.approx(expected.scalar("loss"), rel=1e-5)
    assert run.scalar("predicted_0") == pytest.approx(expected.scalar("predicted_0"))
    for site, same in zip(run.sites, expected.sites, strict=True):
        seen, norms = run.series(site), expected.series(same)
        known = ~is_missing(seen)
        assert np.allclose(seen[known], norms[known], rtol=1e-5)
        assert known.all() or site.kind != "grad"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_was_not_seen_is_said(tmp_path: Path) -> None:
    """The diagnosis names the modules inside of the compiled model and what to do; a plain run has none."""
    torch._dynamo.reset()
    run = trained(wrapped(), tmp_path / "run.h5")
    (event,) = run.events_of("compiled")
    assert event["modules"] == ["0", "1", "2"]
    assert any("TORCH_COMPILE_DISABLE=1" in line for line in nanscope.diagnose(run).unknowns)
    bare = trained(plain(), tmp_path / "plain.h5")
    assert not any("torch.compile" in line for line in nanscope.diagnose(bare).unknowns)
