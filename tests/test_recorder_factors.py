"""Gradients that follow from the factors of a linear call: only where they do.

Each training is compared with its twin under the oracle; a norm may be missing where the tests say so.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

import nanscope
from tests.twins import CHANGE, WIDTH, Net, Step, Training, both, classes

Penalty = Callable[[Tensor], Tensor]
PENALTIES: dict[str, Penalty] = {
    "l2": lambda w: w.square().sum(),
    "l1": lambda w: w.abs().sum(),
    "sum": lambda w: w.sum(),  # its gradient is no tensor of its own, and the other one is added out of place
}


def _penalised(penalty: Penalty, when: Callable[[int], bool], *, before: bool) -> Step:
    """A penalty on a weight, by turns on the first and the second layer's."""

    def step(t: Training, i: int) -> None:
        weight = t.model.get_parameter("first.weight" if i % 2 else "second.weight")
        early = penalty(weight) if before and when(i) else 0.0
        loss = classes(t.model(t.batch())) + early
        t.learn(loss + penalty(weight) if when(i) and not before else loss)

    return step


WHEN: dict[str, Callable[[int], bool]] = {
    "always": lambda _: True,
    "later": lambda i: i >= CHANGE,
    "sometimes": lambda i: i >= CHANGE and i % 3 > 0,
}


def _frozen() -> nn.Module:
    model = Net()
    model.first.requires_grad_(requires_grad=False)
    return model


# each penalty at each time, and before and after the model with each of both
PENALISED = [
    (name, when, (i + j) % 2 == 0) for i, name in enumerate(PENALTIES) for j, when in enumerate(WHEN)
]


@pytest.mark.parametrize(("name", "when", "before"), PENALISED)
def test_a_penalty_by_turns_is_seen(name: str, when: str, before: bool, tmp_path: Path) -> None:
    """Graphs of one size that differ only in which weight the loss uses, from the first step they occur."""
    twins = both(Net, _penalised(PENALTIES[name], WHEN[when], before=before), tmp_path / "run.h5")
    assert twins.same
    assert not twins.wrong(3e-5)
    assert not twins.holes()


@pytest.mark.parametrize("build", [_frozen, lambda: Net(bias=False)])
def test_a_penalty_is_seen_without_biases_or_a_first_gradient(
    build: Callable[[], nn.Module], tmp_path: Path
) -> None:
    """A first output without a gradient is no reason not to look."""
    twins = both(build, _penalised(torch.sum, WHEN["later"], before=False), tmp_path / "run.h5")
    assert not twins.wrong(3e-5)
    assert not twins.holes()


def _replace(p: Tensor) -> None:
    p.grad = None if p.grad is None else p.grad * 3


def _triple(gradient: Tensor) -> None:
    gradient.mul_(3)


def _override(module: nn.Module) -> None:
    module.forward = lambda x: nn.Linear.forward(module, x * 2) * 3  # type: ignore[arg-type]


CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "parameter hook": lambda m: m.get_parameter("weight").register_hook(lambda g: g * 3),
    "parameter hook in place": lambda m: m.get_parameter("weight").register_hook(_triple),
    "bias hook": lambda m: m.get_parameter("bias").register_hook(lambda g: g * 3),
    "accumulated": lambda m: m.get_parameter("weight").register_post_accumulate_grad_hook(_replace),
    "accumulated bias": lambda m: m.get_parameter("bias").register_post_accumulate_grad_hook(_replace),
    "forward hook": lambda m: m.register_forward_hook(lambda _m, _a, out: out * 3, prepend=True),
    "tensor hook": lambda m: m.register_forward_hook(
        lambda _m, _a, out: out.register_hook(lambda g: g * 3) and None
    ),
    "pre hook": lambda m: m.register_forward_pre_hook(lambda _m, args: (args[0] * 3,)),
    "backward pre hook": lambda m: m.register_full_backward_pre_hook(lambda _m, grads: (grads[0] * 3,)),
    "override": _override,
}


# each change of each layer, from the start or later by turns; the layers are alike but for their place
CHANGED = [
    (name, layer, (0, CHANGE)[(i + j) % 2])
    for i, name in enumerate(CHANGES)
    for j, layer in enumerate(("first", "second"))
]


@pytest.mark.parametrize(("name", "layer", "when"), CHANGED)
def test_what_comes_between_is_seen(name: str, layer: str, when: int, tmp_path: Path) -> None:
    """Hooks and overrides, from the start or put on later; what arrives at the weight is recorded."""

    def step(t: Training, i: int) -> None:
        if i == when:
            CHANGES[name](t.model.get_submodule(layer))
        t.learn(classes(t.model(t.batch())))

    twins = both(Net, step, tmp_path / "run.h5")
    wrong = twins.wrong(3e-5)
    if name in ("tensor hook", "backward pre hook"):  # whose hook comes first is no matter of right and wrong
        wrong = [entry for entry in wrong if entry[1] != f"{layer}.grad_output"]
    assert twins.same
    assert not wrong
    assert len(twins.holes()) <= 1


def _called_with_others(t: Training, i: int) -> None:
    x = t.batch()
    twice = {name: p * 2 for name, p in t.model.named_parameters()}
    t.learn(classes(torch.func.functional_call(t.model, twice, (x,)) if i % 3 else t.model(x)))


def _another_class_forward(t: Training, i: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if i % 3:
            patch.setattr(nn.Linear, "forward", lambda s, x: F.linear(x, s.weight, s.bias) * 2)
        loss = classes(t.model(t.batch()))
    t.learn(loss)


def _used_besides(t: Training, i: int) -> None:
    x = t.batch()
    loss = classes(t.model(x))
    besides = F.linear(x, t.model.get_parameter("first.weight")).sum()
    t.learn(loss + besides if i % 3 else loss)


def _gradients_by_hand(t: Training, i: int) -> None:
    loss = classes(t.model(t.batch()))
    if i % 2 or i < CHANGE:
        t.learn(loss)
        return
    parameters = list(t.model.parameters())
    for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        p.grad = gradient * 3
    t.optimizer.step()
    t.optimizer.zero_grad()


@pytest.mark.parametrize(
    ("step", "holes"),
    [(_called_with_others, 0), (_another_class_forward, 0), (_used_besides, 0), (_gradients_by_hand, 2)],
)
def test_another_use_of_a_weight_is_seen(step: Step, holes: int, tmp_path: Path) -> None:
    """The graph says whether a layer's output is its input times its own weight."""
    twins = both(Net, step, tmp_path / "run.h5")
    assert twins.same
    assert not twins.wrong(3e-5)
    assert len(twins.holes()) <= holes


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-6), (torch.float32, 1e-5), (torch.bfloat16, 1e-3), (torch.float16, 2e-3)],
)
def test_every_dtype(dtype: torch.dtype, tolerance: float, tmp_path: Path) -> None:
    """Also float16, whose gradients vanish where the product of their factors does not."""

    def step(t: Training, _: int) -> None:
        t.learn(classes(t.model(t.batch(dtype=dtype))) * 1e-3)

    twins = both(lambda: Net(dtype=dtype), step, tmp_path / "run.h5")
    assert not twins.wrong(tolerance)
    assert not twins.holes()


def test_autocast_for_some_steps(tmp_path: Path) -> None:
    """The factors that the layer has seen are rounded ones, and those that we see are not."""

    def step(t: Training, i: int) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=i % 3 > 0):
            output = t.model(t.batch())
        t.learn(F.mse_loss(output.float(), torch.ones(1, WIDTH)))

    twins = both(lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH)), step, tmp_path / "run.h5")
    assert not twins.wrong(1e-5)
    assert not twins.holes()


@pytest.mark.parametrize(("entering", "leaving"), [(1e25, 1e-20), (1e-10, 1e25), (1e18, 1e18), (1e21, 1e21)])
def test_factors_beyond_float32(entering: float, leaving: float, tmp_path: Path) -> None:
    """Norms that overflow, of tensors that do not; the gradient is infinite where an element of it is."""

    def step(t: Training, i: int) -> None:
        scale = i % 3 > 0
        output = t.model(t.batch() * (entering if scale else 1.0))
        (output.sum() * (leaving if scale else 1.0)).backward()
        t.optimizer.step()
        t.optimizer.zero_grad()

    def still(parameters: object) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.0)  # type: ignore[arg-type]

    twins = both(lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=False)), step, tmp_path / "run.h5", still)
    finite = all(value < float("inf") for norms in twins.expected for value in norms.values())
    assert finite == (entering * leaving < 1e38)
    assert not twins.wrong(1e-5)
    assert not twins.holes()
    assert (nanscope.diagnose(tmp_path / "run.h5").origin is None) == finite


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    layers=st.lists(st.sampled_from(["linear", "plain", "relu", "in place", "tanh"]), min_size=1, max_size=4),
    plan=st.lists(
        st.tuples(st.integers(1, 3), st.sampled_from(["", "sum", "l2", "freeze", "keep"])),
        min_size=1,
        max_size=4,
    ),
)
def test_any_model_and_any_course(
    layers: list[str], plan: list[tuple[int, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Random stacks of layers, rows and events; never a wrong number."""

    def build() -> nn.Module:
        made: dict[str, Callable[[], nn.Module]] = {
            "linear": lambda: nn.Linear(WIDTH, WIDTH),
            "plain": lambda: nn.Linear(WIDTH, WIDTH, bias=False),
            "relu": nn.ReLU,
            "in place": lambda: nn.ReLU(inplace=True),
            "tanh": nn.Tanh,
        }
        return nn.Sequential(nn.Linear(WIDTH, WIDTH), *(made[layer]() for layer in layers))

    def step(t: Training, i: int) -> None:
        rows, event = plan[i % len(plan)] if i > 15 else (1, "")
        weight = t.model.get_parameter("0.weight")
        weight.requires_grad_(event != "freeze")
        loss = t.model(t.batch(rows)).square().sum()
        (loss + PENALTIES[event](weight) if event in PENALTIES else loss).backward()
        t.optimizer.step()
        if event != "keep":
            t.optimizer.zero_grad()

    def slow(parameters: object) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=1e-4)  # type: ignore[arg-type]

    twins = both(build, step, tmp_path_factory.mktemp("any") / "run.h5", slow)
    assert twins.same
    assert not twins.wrong(3e-5)
