"""Models under torch.func, tracers, fake tensors, scripts: training goes on as if nobody watched."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Optimizer
from torch.utils.checkpoint import checkpoint

import nanscope
from nanscope.run import is_missing
from nanscope.values import Kind

STEPS = 24
X, Y = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 4
Step = Callable[[nn.Sequential, Optimizer, int], object]


def _plain(model: nn.Module, optimizer: Optimizer, _number: int = 0) -> None:
    optimizer.zero_grad()
    cross_entropy(model(X), Y).backward()
    optimizer.step()


def _per_sample(model: nn.Module) -> dict[str, Tensor]:
    held = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(functional_call(model, parameters, (x[None],)), y[None])

    return vmap(grad(loss), in_dims=(None, 0, 0))(held, X, Y)


def _vmapped_gradients(model: nn.Sequential, optimizer: Optimizer, _number: int) -> None:
    for name, gradient in _per_sample(model).items():
        model.get_parameter(name).grad = gradient.mean(0)
    optimizer.step()


def _vmapped_beside(model: nn.Sequential, optimizer: Optimizer, _number: int) -> None:
    optimizer.zero_grad()
    loss = cross_entropy(model(X), Y)
    _per_sample(model)
    loss.backward()
    optimizer.step()


def _vmapped_forward(model: nn.Sequential, optimizer: Optimizer, _number: int) -> None:
    optimizer.zero_grad()
    cross_entropy(vmap(lambda x: model(x[None])[0])(X), Y).backward()
    optimizer.step()


def _jacobians(model: nn.Sequential, optimizer: Optimizer, number: int) -> None:
    jacrev(model)(X[0])
    jacfwd(model)(X[0])
    jvp(model, (X,), (X,))
    vjp(model, X)
    hessian(lambda x: model(x).sum())(X[0])
    torch.autograd.functional.jacobian(model, X[:1])
    _plain(model, optimizer, number)


def _traced(model: nn.Sequential, optimizer: Optimizer, number: int) -> None:
    if number == 3:
        torch.fx.symbolic_trace(model)(X)
    if number == 5:
        torch.export.export(copy.deepcopy(model), (X,))
    if number == 7:
        torch.jit.trace(model, X)
    if number == 9:
        make_fx(model)(X)
    if number == 11:
        with FakeTensorMode(allow_non_fake_inputs=True):
            model(X)
    _plain(model, optimizer)


def _checkpointed(model: nn.Sequential, optimizer: Optimizer, number: int) -> None:
    optimizer.zero_grad()
    inner = checkpoint(model[:2], X.clone().requires_grad_(), use_reentrant=bool(number % 2))
    cross_entropy(model[2](inner), Y).backward()
    optimizer.step()


def _evaluated(model: nn.Sequential, optimizer: Optimizer, number: int) -> None:
    _plain(model, optimizer, number)
    model.eval()
    with torch.inference_mode():
        model(X)
    model.train()


def _second_order(model: nn.Sequential, optimizer: Optimizer, _number: int) -> None:
    optimizer.zero_grad()
    x = X.clone().requires_grad_()
    loss = cross_entropy(model(x), Y)
    (slope,) = torch.autograd.grad(loss, x, create_graph=True)
    (loss + slope.pow(2).sum()).backward()
    optimizer.step()


STEPS_OF: dict[str, Step] = {
    "vmapped gradients": _vmapped_gradients,
    "vmapped gradients beside the loss": _vmapped_beside,
    "vmapped forward": _vmapped_forward,
    "jacobians": _jacobians,
    "traced": _traced,
    "checkpointed": _checkpointed,
    "evaluated in inference mode": _evaluated,
    "second order": _second_order,
}


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def _lazy() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.LazyBatchNorm1d(), nn.LazyLinear(4))


def _scripted() -> nn.Sequential:
    model = _model()
    model[0] = torch.jit.script(model[0])
    return model


def _materialised() -> nn.Sequential:
    with torch.device("meta"):
        model = _model()
    model.to_empty(device="cpu")
    torch.manual_seed(0)
    model[0].reset_parameters()
    model[2].reset_parameters()
    return model


MODELS: dict[str, Callable[[], nn.Sequential]] = {
    "lazy": _lazy,
    "a scripted submodule": _scripted,
    "traced by fx": lambda: torch.fx.symbolic_trace(_model()),
    "materialised from meta": _materialised,
}


def _trained(make: Callable[[], nn.Sequential], step: Step, path: Path | None) -> list[Tensor]:
    model = make()
    optimizer = SGD(list(model.parameters()), lr=0.1, momentum=0.9)
    with nanscope.record(model, optimizer, path) if path else nullcontext():
        for number in range(STEPS):
            step(model, optimizer, number)
    return list(model.state_dict().values())


def _run_alike(make: Callable[[], nn.Sequential], step: Step, path: Path) -> nanscope.Run:
    """The recorded run; the training must have gone the same way without."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?!nanscope)")  # of torch's own about its tracers
        bare, recorded = _trained(make, step, None), _trained(make, step, path)
    assert all(torch.equal(a, b) for a, b in zip(bare, recorded, strict=True))
    run = nanscope.open_run(path)
    assert (len(run), run.state) == (STEPS, "finished")
    assert not list(run.events_of("recorder-failed"))
    return run


@pytest.mark.parametrize("step", STEPS_OF.values(), ids=STEPS_OF)
def test_any_way_to_call_a_model(step: Step, tmp_path: Path) -> None:
    """Gradients of parameters are recorded in every step; no course changes, nothing fails."""
    run = _run_alike(_model, step, tmp_path / "r.h5")
    gradients = [site for site in run.sites if site.kind is Kind.GRAD]
    assert len(gradients) == 4
    assert not any(is_missing(run.series(site)).any() for site in gradients)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_any_kind_of_module(make: Callable[[], nn.Sequential], tmp_path: Path) -> None:
    """Every output is recorded in every step."""
    run = _run_alike(make, _plain, tmp_path / "r.h5")
    outputs = [site for site in run.sites if site.kind is Kind.OUTPUT]
    assert len(outputs) >= 3
    assert not any(is_missing(run.series(site)).any() for site in outputs)


@pytest.mark.parametrize("step", [_vmapped_forward, _vmapped_gradients])
def test_what_a_transform_hides_is_said(step: Step, tmp_path: Path) -> None:
    """Once in the file, and in the diagnosis with what to do."""
    run = _run_alike(_model, step, tmp_path / "r.h5")
    (event,) = run.events_of("transformed")
    assert sorted(event["modules"]) == ["0", "1", "2"]
    (line,) = nanscope.diagnose(run).unknowns
    assert "3 modules inside of torch.func (0, 1, 2)" in line
    assert "call the model outside of it" in line


def test_a_transform_beside_an_ordinary_step_hides_nothing(tmp_path: Path) -> None:
    """A near miss: all numbers come from the ordinary call."""
    run = _run_alike(_model, _vmapped_beside, tmp_path / "r.h5")
    assert not list(run.events_of("transformed"))
    assert not any(is_missing(run.series(s)).any() for s in run.sites if s.kind is Kind.OUTPUT)
