"""Births in the backward pass: slopes, custom functions, hooks; and what the watch leaves behind."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from tests.watching import birth_in, line_of, of_loss

Loss = Callable[[Tensor], Tensor]

SLOPES: dict[str, tuple[Loss, Any, str, str]] = {
    "root of zero": (lambda w: w.sqrt().sum(), [4.0, 0.0], "sqrt", "SqrtBackward0"),
    "power of zero": (lambda w: (w**0.5).sum(), [4.0, 0.0], "pow", "PowBackward0"),
    "arccosine of one": (lambda w: w.acos().sum(), [0.5, 1.0], "acos", "AcosBackward0"),
    "deviation of equals": (lambda w: (w.var() + 0).sqrt(), [2.0, 2.0], "sqrt", "SqrtBackward0"),
    "unpicked root": (lambda w: torch.where(w > 0, w.sqrt(), w).sum(), [4.0, -1.0], "sqrt", "SqrtBackward0"),
    "unpicked logarithm": (lambda w: torch.where(w > 0, w.log(), w).sum(), [4.0, 0.0], "log", "LogBackward0"),
    "unpicked quotient": (
        lambda w: torch.where(w > 0, 1 / w, w).sum(),
        [4.0, 0.0],
        "div",
        "ReciprocalBackward0",
    ),
}


@pytest.mark.parametrize("name", SLOPES)
def test_a_slope_that_does_not_exist(name: str) -> None:
    """All is finite forwards; the function whose gradient it is, its node and its operand are named."""
    loss, weight, op, node = SLOPES[name]
    found = of_loss(loss, weight)
    assert found is not None
    assert (found["phase"], found["op"], found["node"]) == ("backward", op, node)
    assert not found["hook"]
    assert not found["custom"]
    assert found["forward"]["operands"][0]["nan"] == 0
    assert found["location"] == found["forward"]["location"]
    assert found["location"]["function"] == "<lambda>"


def test_the_operand_of_the_function_and_its_line() -> None:
    """The forward operation with its operand as it was, its line, module and sample."""

    class Length(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            squared = x.square().sum(1)
            return squared.sqrt()

    model = nn.Sequential(nn.Linear(3, 3, bias=False), Length())
    optimizer = SGD(model.parameters(), lr=0.1)
    x = torch.randn(4, 3)
    x[2] = 0

    def step() -> None:
        model(x).mean().backward()
        optimizer.step()

    found = birth_in(step, model, [optimizer], inputs=[x], rows=4)
    assert found is not None
    assert (found["phase"], found["op"], found["module"]) == ("backward", "sqrt", "1")
    assert found["samples"] == [2]
    assert found["forward"]["operands"][0]["zeros"] == 1
    assert found["location"]["line"] == line_of(Length.forward, "sqrt()")
    assert found["forward"]["operands"][0]["made_by"]["op"] == "sum"


def test_a_gradient_that_overflows_is_no_row_of_the_batch() -> None:
    """The gradient of a weight has as many rows as the batch; they are no samples."""
    model = nn.Linear(4, 4, bias=False)
    nn.init.zeros_(model.weight)
    x = torch.full((4, 4), 1e25)

    def step() -> None:
        (model(x) * 1e14).sum().backward()

    found = birth_in(step, model, inputs=[x], rows=4)
    assert found is not None
    assert (found["phase"], found["op"], found["samples"]) == ("backward", "mm", [])


class Root(torch.autograd.Function):
    """A root with its slope written by hand, in the older way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Shape of `x`."""
        root = torch.sqrt(x)
        ctx.save_for_backward(root)
        return root

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """Shape of `x`."""
        return grads[0] / (2 * ctx.saved_tensors[0])


class NewRoot(torch.autograd.Function):
    """The same with the context set up apart."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """Shape of `x`."""
        return torch.sqrt(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        """Keep the root."""
        del inputs
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """Shape of `x`."""
        return grads[0] / (2 * ctx.saved_tensors[0])


class NumpyLog(torch.autograd.Function):
    """Both passes in numpy, and an infinity that could be meant but is computed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Shape of `x`."""
        ctx.save_for_backward(x)
        with np.errstate(divide="ignore"):
            return torch.from_numpy(np.log(x.detach().numpy()))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """Shape of `x`."""
        return grads[0] / ctx.saved_tensors[0]


class NumpyRoot(torch.autograd.Function):
    """Both passes in numpy: torch sees no operation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Shape of `x`."""
        ctx.save_for_backward(x)
        with np.errstate(invalid="ignore"):
            return torch.from_numpy(np.sqrt(x.detach().numpy()))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """Shape of `x`."""
        with np.errstate(divide="ignore"):
            slope = 0.5 / np.sqrt(ctx.saved_tensors[0].detach().numpy())
        return grads[0] * torch.from_numpy(slope)


@pytest.mark.parametrize("function", [Root, NewRoot, NumpyRoot])
@pytest.mark.parametrize(("weight", "phase"), [([4.0, -1.0], "loss"), ([4.0, 0.0], "backward")])
def test_a_custom_function(function: Any, weight: list[float], phase: str) -> None:
    """It is named by its class, forwards and backwards."""
    found = of_loss(lambda w: function.apply(w).sum(), weight)
    assert found is not None
    assert (found["phase"], found["op"], found["custom"]) == (phase, function.__name__, True)


def test_an_infinity_that_a_custom_function_computed() -> None:
    """It is no mask: the function is the birth."""
    found = of_loss(lambda w: NumpyLog.apply(w).sum(), [4.0, 0.0])
    assert found is not None
    assert (found["phase"], found["op"], found["custom"]) == ("loss", "NumpyLog", True)
    assert of_loss(lambda w: NumpyLog.apply(w).sum(), [4.0, 1.0]) is None


@pytest.mark.parametrize("function", [Root, NewRoot])
def test_the_operation_in_a_custom_function(function: Any) -> None:
    """The operation within is kept, and the line is that of the function's own code."""
    found = of_loss(lambda w: function.apply(w).sum(), [4.0, 0.0])
    assert found is not None
    assert found["inner"] == "div"
    assert found["location"]["line"] == line_of(function.backward, "return")


@pytest.mark.parametrize("function", [Root, NewRoot, NumpyRoot])
def test_a_custom_function_in_order(function: Any) -> None:
    """Positive numbers have a root and a slope."""
    assert of_loss(lambda w: function.apply(w).sum(), [4.0, 1.0]) is None


def halved(grad: Tensor) -> Tensor:
    """A gradient over zero."""
    return grad / 0.0


def marked(grad: Tensor) -> Tensor:
    """A constant that is no result of an operation."""
    return torch.full_like(grad, math.nan)


def from_numpy(grad: Tensor) -> Tensor:
    """Numbers that torch did not make."""
    return torch.from_numpy(np.full(grad.shape, np.inf, dtype=np.float32))


@pytest.mark.parametrize("hook", [halved, marked, from_numpy])
@pytest.mark.parametrize("inner", [False, True])
def test_a_tensor_hook(hook: Callable[[Tensor], Tensor], inner: bool) -> None:
    """On a parameter or on something between; the hook's function is named."""

    def loss(w: Tensor) -> Tensor:
        between = w * 2
        (between if inner else w).register_hook(hook)
        return between.sum()

    found = of_loss(loss, [1.0, 2.0])
    assert found is not None
    assert (found["phase"], found["op"], found["hook"]) == ("backward", hook.__name__, True)


def shrink(parameter: Tensor) -> None:
    """Divides the complete gradient in place."""
    assert parameter.grad is not None
    parameter.grad.div_(0.0)


def test_a_post_accumulate_hook_and_a_module_hook() -> None:
    """Both name their function, and the line in it."""
    model = nn.Linear(3, 1)
    handle = model.weight.register_post_accumulate_grad_hook(shrink)
    found = birth_in(lambda: model(torch.ones(2, 3)).sum().backward(), model)
    handle.remove()
    assert found is not None
    assert (found["op"], found["hook"]) == ("shrink", True)
    assert found["location"]["line"] == line_of(shrink, "div_")

    def spoil(_module: nn.Module, grads: Any, _outputs: Any) -> Any:
        return tuple(g if g is None else g / 0 for g in grads)

    model.register_full_backward_hook(spoil)
    x = torch.ones(2, 3, requires_grad=True)
    found = birth_in(lambda: model(x * 2).sum().backward(), nn.Sequential(model), inputs=[x])
    assert found is None  # only the gradient of the input is spoilt, which is no parameter's

    both = nn.Sequential(nn.Linear(3, 3), model)
    found = birth_in(lambda: both(x).sum().backward(), both, inputs=[x])
    assert found is not None
    assert (found["op"], found["hook"]) == ("spoil", True)


def test_a_hook_in_order() -> None:
    """A hook that halves is none to blame."""

    def loss(w: Tensor) -> Tensor:
        w.register_hook(lambda grad: grad / 2)
        return w.sum()

    assert of_loss(loss, [1.0]) is None


def test_a_gradient_that_is_asked_for() -> None:
    """The gradient penalty's root of zero: in the second backward pass, named by its function."""
    model = nn.Linear(3, 1)
    nn.init.zeros_(model.weight)
    x = torch.ones(4, 3, requires_grad=True)

    def step() -> None:
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        (slope.square().sum(1).sqrt() - 1).square().mean().backward()

    found = birth_in(step, model, inputs=[x], rows=4)
    assert found is not None
    assert (found["phase"], found["op"], found["samples"]) == ("backward", "sqrt", [0, 1, 2, 3])


def test_a_step_by_autograd_grad() -> None:
    """A loop without `backward()`: the birth is in the pass of `torch.autograd.grad`."""
    model = nn.ParameterDict({"w": nn.Parameter(torch.tensor([4.0, 0.0]))})

    def step() -> None:
        (grad,) = torch.autograd.grad(model["w"].sqrt().sum(), [model["w"]])
        with torch.no_grad():
            model["w"].sub_(grad)

    found = birth_in(step, model)
    assert found is not None
    assert (found["phase"], found["op"], found["hook"]) == ("backward", "sqrt", False)


@pytest.mark.parametrize(("weight", "breaks"), [(1e10, True), (1e9, False)])
def test_a_recurrence(weight: float, breaks: bool) -> None:
    """A gradient grows by `weight` in each of four steps of time; the state is held small forwards."""
    model = nn.ParameterDict({"w": nn.Parameter(torch.tensor(weight))})

    def step() -> None:
        state = (model["w"] * 1e-10).detach().requires_grad_()
        first = state
        for _ in range(4):
            state = state * model["w"]
            state = state - state.detach()
        (state + 0 * model["w"]).backward()
        with torch.no_grad():
            model["w"].sub_(first.grad * 0.0)

    found = birth_in(step, model)
    assert (found is not None) == breaks
    if found is not None:
        assert (found["phase"], found["op"], found["result"]["posinf"]) == ("backward", "mul", 1)


def test_nothing_is_left_behind() -> None:
    """No mode, hook or patch stays, also when the step raises; random numbers and results are its own."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(), nn.Linear(8, 1))
    optimizer = SGD(model.parameters(), lr=0.1)
    x = torch.randn(4, 3)
    before = (nn.Module.__call__, torch.autograd.backward, Tensor.backward, torch.autograd.grad)

    def step(*, fails: bool = False) -> Tensor:
        if fails:
            raise RuntimeError("no")
        loss = model(x).square().mean() - torch.log(model[0].weight.abs().sum() * 0)
        loss.backward()
        optimizer.step()
        drawn.append(torch.rand(3))
        return loss

    drawn: list[Tensor] = []
    torch.manual_seed(4)
    assert birth_in(step, model, [optimizer], inputs=[x], rows=4) is not None
    step()
    assert len(drawn) == 2  # the second execution ends with the birth
    assert torch.equal(drawn[0], drawn[1])
    with pytest.raises(RuntimeError, match="no"):
        birth_in(lambda: step(fails=True), model, [optimizer])
    assert before == (nn.Module.__call__, torch.autograd.backward, Tensor.backward, torch.autograd.grad)
    assert not _get_current_function_mode_stack()
    assert not _get_current_dispatch_mode_stack()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    hooks = nn.modules.module
    assert not hooks._global_forward_hooks
    assert not hooks._global_forward_pre_hooks
