"""Models whose modules or parameters change while they are recorded."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

import nanscope
from nanscope.run import Run, is_missing
from nanscope.values import Kind


class Grower(nn.Module):
    """Two layers, and room for more between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.more = nn.ModuleList()
        self.last = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape (rows, 4) to (rows, 3)."""
        x = self.first(x).relu()
        for layer in self.more:
            x = layer(x).relu()
        return self.last(x)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    """One step on fixed data; the norm of all gradients, before the update."""
    optimizer.zero_grad()
    x = torch.linspace(-1, 1, 20).reshape(5, 4)
    F.cross_entropy(model(x), torch.tensor([0, 1, 2, 0, 1])).backward()
    total = sum(float(p.grad.double().square().sum()) for p in model.parameters() if p.grad is not None)
    optimizer.step()
    return total**0.5


def gradients(run: Run) -> np.ndarray:
    """Norm of all gradients in each row of a run."""
    squares = [
        np.where(is_missing(norm), 0, norm.astype(np.float64)) ** 2
        for norm in (run.series(site) for site in run.sites if site.kind is Kind.GRAD)
    ]
    return np.sqrt(np.sum(squares, axis=0))


def test_a_layer_that_is_added_is_recorded_from_its_first_step_on(tmp_path: Path) -> None:
    """The run goes on in a second part; all gradients are in it, and the new layer's output."""
    torch.manual_seed(0)
    model = Grower()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    norms = []
    with nanscope.record(model, optimizer, tmp_path / "run.h5") as recorder:
        norms += [step(model, optimizer) for _ in range(70)]
        recorder.log(accuracy=0.5)
        layer = nn.Linear(8, 8)
        model.more.append(layer)
        optimizer.add_param_group({"params": layer.parameters()})
        norms += [step(model, optimizer) for _ in range(30)]
        recorder.log(accuracy=0.75)
    run = nanscope.open_run(tmp_path / "run.h5")
    with h5py.File(tmp_path / "run.h5") as file:
        assert (file.attrs["layout"], file.attrs["parts"]) == ("compact", 2)
    np.testing.assert_allclose(gradients(run), norms, rtol=1e-5)
    assert run.steps.tolist() == list(range(100))
    new = next(site for site in run.sites if str(site) == "more.0.output")
    assert is_missing(run.series(new)).tolist() == [True] * 70 + [False] * 30
    accuracy = run.scalar("accuracy")
    assert (accuracy[69], accuracy[99]) == (0.5, 0.75)
    assert is_missing(accuracy).sum() == 98


def test_an_unfrozen_layer_needs_no_other_part(tmp_path: Path) -> None:
    """Its gradient has a column from the start: missing while it was frozen."""
    torch.manual_seed(0)
    model = Grower()
    model.first.requires_grad_(requires_grad=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with nanscope.record(model, optimizer, tmp_path / "run.h5"):
        norms = [step(model, optimizer) for _ in range(10)]
        model.first.requires_grad_(requires_grad=True)
        norms += [step(model, optimizer) for _ in range(10)]
    run = nanscope.open_run(tmp_path / "run.h5")
    assert len(list(tmp_path.iterdir())) == 1
    np.testing.assert_allclose(gradients(run), norms, rtol=1e-5)
    grad = next(site for site in run.sites if str(site) == "first.weight.grad")
    assert is_missing(run.series(grad)).tolist() == [True] * 10 + [False] * 10


def test_a_parameter_in_another_ones_place_is_followed(tmp_path: Path) -> None:
    """Same name and shape: the same file goes on, with the new parameter's gradient."""
    torch.manual_seed(0)
    model = Grower()
    with nanscope.record(model, path=tmp_path / "run.h5"):
        norms = [step(model, torch.optim.SGD(model.parameters(), lr=0.1)) for _ in range(5)]
        model.last.weight = nn.Parameter(torch.randn(3, 8))
        norms += [step(model, torch.optim.SGD(model.parameters(), lr=0.1)) for _ in range(5)]
    run = nanscope.open_run(tmp_path / "run.h5")
    assert len(list(tmp_path.iterdir())) == 1
    np.testing.assert_allclose(gradients(run), norms, rtol=1e-5)


def test_trouble_before_the_change_is_not_forgotten(tmp_path: Path) -> None:
    """The first non-finite step stays the first one."""
    torch.manual_seed(0)
    model = Grower()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with nanscope.record(model, optimizer, tmp_path / "run.h5") as recorder:
        step(model, optimizer)
        with torch.no_grad():
            model.last.weight[0, 0] = torch.nan
        step(model, optimizer)
        model.more.append(nn.Linear(8, 8))
        step(model, optimizer)
        assert recorder.trouble is not None
        assert recorder.trouble.step == 1
    origin = nanscope.diagnose(tmp_path / "run.h5").origin
    assert origin is not None
    assert (origin.step, origin.op) == (1, "parameter")  # it was written between the steps 0 and 1


def test_other_models_are_none_of_its_business(tmp_path: Path) -> None:
    """Modules made elsewhere while it records leave the file as it is; its hooks are gone afterwards."""
    model = Grower()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    hooks = nn.modules.module._global_module_registration_hooks
    before = len(hooks)
    with nanscope.record(model, optimizer, tmp_path / "run.h5"):
        for _ in range(3):
            step(model, optimizer)
            Grower()
    assert len(hooks) == before
    assert [file.name for file in tmp_path.iterdir()] == ["run.h5"]
    assert len(nanscope.open_run(tmp_path / "run.h5")) == 3


@pytest.mark.parametrize("state", [True, False])
def test_training_is_the_same_with_a_growing_model(tmp_path: Path, state: bool) -> None:
    """Bit for bit, recorded or not; the outcome is compared with the other case's."""
    torch.manual_seed(0)
    outcomes = []
    for recorded in (state, not state):
        torch.manual_seed(1)
        model = Grower()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        recorder = nanscope.record(model, optimizer, tmp_path / f"{recorded}.h5")
        if recorded:
            recorder.__enter__()
        for i in range(20):
            if i == 10:
                layer = nn.Linear(8, 8)
                model.more.append(layer)
                optimizer.add_param_group({"params": layer.parameters()})
            step(model, optimizer)
        if recorded:
            recorder.close()
        outcomes.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*outcomes)
