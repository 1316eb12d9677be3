"""Faults in hooks: of tensors, parameters and modules, backwards and forwards."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.faults.custom import FAMILY
from tests.faults.fault import Watch, fault
from tests.faults.loops import fit
from tests.faults.parts import classification, mlp, regression


class TwoTasks(nn.Module):
    """One body, two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(6, 16, 8)
        self.first, self.second = nn.Linear(8, 1), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Shapes (batch, 1), twice."""
        shared = self.body(x)
        return self.first(shared), self.second(shared)


def to_unit_length(grad: Tensor) -> Tensor:
    """A gradient's direction."""
    return grad / grad.norm()


@fault(
    FAMILY,
    step=4,
    phase="backward",
    module=("second", ""),
    op="to_unit_length",
    cause="gradient-hook",
    source="https://github.com/microsoft/dion/pull/24",
)
def hook_normalises_a_zero_gradient(watch: Watch) -> None:
    """A hook scales a weight's gradient to length 1; the loss of that task has weight 0 in the fifth step."""
    torch.manual_seed(3)
    model = TwoTasks()
    model.second.weight.register_hook(to_unit_length)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer):
        for step, (x, y) in enumerate(regression(8)):
            optimizer.zero_grad()
            first, second = model(x)
            share = 0.0 if step == 4 else 0.5
            loss = functional.mse_loss(first, y) + share * functional.mse_loss(second, -y)
            loss.backward()
            optimizer.step()


class Balance:
    """A backward hook that divides a module's gradient by how many samples were positive."""

    def __init__(self) -> None:
        self.positives = torch.tensor(1.0)

    def balance_by_positives(self, _module: nn.Module, grads: Any, _outputs: Any) -> tuple[Tensor, ...]:
        """The gradient of the module's input, scaled."""
        return (grads[0] / self.positives,)


@fault(
    FAMILY,
    step=5,
    phase="backward",
    module=("2", "1", ""),
    op="balance_by_positives",
    cause="gradient-hook",
    source="own: balancing gradients in a module's backward hook",
)
def module_hook_divides_by_a_count(watch: Watch) -> None:
    """A full backward hook divides by the number of positive samples, and one batch has none."""
    torch.manual_seed(4)
    model = mlp(6, 16, 1)
    balance = Balance()
    model[2].register_full_backward_hook(balance.balance_by_positives)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    with watch(model, optimizer):
        for step, (x, y) in enumerate(regression(8)):
            labels = (y > 0).float() if step != 5 else torch.zeros_like(y)
            balance.positives = labels.sum()
            optimizer.zero_grad()
            loss = functional.binary_cross_entropy_with_logits(model(x), labels)
            loss.backward()
            optimizer.step()


def standardise_gradient(parameter: Tensor) -> None:
    """Mean 0 and deviation 1 of a gradient that is complete."""
    assert parameter.grad is not None
    spread = parameter.grad.square().mean() - parameter.grad.mean().square()
    parameter.grad.sub_(parameter.grad.mean()).div_(spread.clamp(min=0.0).sqrt())


@fault(
    FAMILY,
    step=0,
    phase="backward",
    module=("2", ""),
    op="standardise_gradient",
    cause="gradient-hook",
    source="own: gradient standardisation as a post-accumulate hook",
)
def hook_standardises_a_single_number(watch: Watch) -> None:
    """Gradients are standardised in a post-accumulate hook; the last bias is one number without a spread."""
    torch.manual_seed(5)
    model = mlp(6, 16, 1)
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(standardise_gradient)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    fit(watch, model, optimizer, regression(6), functional.mse_loss)


def mark_frozen_rows(grad: Tensor) -> Tensor:
    """NaN where a row is frozen, for an optimizer that skips NaN (this one does not)."""
    marked = torch.full_like(grad, float("nan"))
    marked[4:] = grad[4:]
    return marked


@fault(
    FAMILY,
    step=0,
    phase="backward",
    module=("0", ""),
    op="mark_frozen_rows",
    cause="gradient-hook",
    source="own: NaN as a mark for rows that must not be updated",
)
def hook_marks_with_nan(watch: Watch) -> None:
    """A hook writes a constant NaN into the gradient of frozen rows, a mark that the optimizer ignores."""
    torch.manual_seed(6)
    model = mlp(6, 16, 4)
    model[0].weight.register_hook(mark_frozen_rows)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    fit(watch, model, optimizer, classification(6), functional.cross_entropy)


def peak_to_one(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    """Every row divided by its largest element."""
    return output / output.amax(dim=1, keepdim=True)


@fault(
    FAMILY,
    step=3,
    phase="forward",
    module=("1", ""),
    op="div",
    sample=6,
    cause="division-by-zero",
    source="own: activations normalised in a forward hook",
)
def forward_hook_divides(watch: Watch) -> None:
    """A forward hook normalises the ReLU's output by its peak, which is 0 for a row with no active unit."""
    torch.manual_seed(8)
    model = mlp(4, 8, 4)
    model[1].register_forward_hook(peak_to_one)
    nn.init.uniform_(model[0].weight, 0.1, 1.0)
    nn.init.zeros_(model[0].bias)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    data = [(torch.rand(8, 4) + 0.1, torch.randint(4, (8,))) for _ in range(6)]
    data[3][0][6] = -1.0
    fit(watch, model, optimizer, data, functional.cross_entropy)
