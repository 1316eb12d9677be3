"""Trainings in which something changes when the recorder has got used to how they go.

Every recorded norm has to be right; one that could not be had may be missing, for the step of the change.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from tests.twins import CHANGE, STEPS, WIDTH, Net, Step, Training, both, classes


def _changed(i: int) -> bool:
    """From the step of the change on, twice in three steps."""
    return i > CHANGE and i % 3 > 0


def _loss(t: Training, rows: int = 1) -> Tensor:
    return classes(t.model(t.batch(rows)))


def _usual(t: Training, _: int) -> None:
    t.learn(_loss(t))


def _rows_vary(t: Training, i: int) -> None:
    t.learn(_loss(t, (1, 3, 1, 60)[i % 4]))


def _last_batch_is_smaller(t: Training, i: int) -> None:
    t.learn(_loss(t, 3 if i % 10 < 9 else 1))


def _accumulates(t: Training, i: int) -> None:
    for _ in range(3 if _changed(i) else 1):
        _loss(t).backward()
    t.optimizer.step()
    t.optimizer.zero_grad()


def _zeroes_in_place(t: Training, i: int) -> None:
    t.optimizer.zero_grad(set_to_none=i < CHANGE)
    _loss(t).backward()
    t.optimizer.step()


def _does_not_clear(t: Training, i: int) -> None:
    if not _changed(i):
        t.optimizer.zero_grad()
    _loss(t).backward()
    t.optimizer.step()


def _clears_a_part(t: Training, i: int) -> None:
    t.model.get_submodule("first").zero_grad()
    if not _changed(i):
        t.optimizer.zero_grad()
    _loss(t).backward()
    t.optimizer.step()


def _clips(t: Training, _: int) -> None:
    _loss(t).backward()
    t.look()
    nn.utils.clip_grad_norm_(t.model.parameters(), 0.01)
    t.optimizer.step()
    t.optimizer.zero_grad()


def _goes_backward_twice(t: Training, i: int) -> None:
    output = t.model(t.batch())
    classes(output).backward(retain_graph=_changed(i))
    if _changed(i):
        output.square().sum().backward()
    t.optimizer.step()
    t.optimizer.zero_grad()


def _goes_backward_again(t: Training, i: int) -> None:
    loss = _loss(t)
    if _changed(i) and t.recorded:
        loss.backward(retain_graph=True)
        t.optimizer.zero_grad()
    t.learn(loss)


def _throws_a_backward_away(t: Training, i: int) -> None:
    if _changed(i):
        _loss(t).backward()
        t.optimizer.zero_grad()
        t.forget()
    t.learn(_loss(t))


def _starts_from_several(t: Training, i: int) -> None:
    output = t.model(t.batch())
    extra = [output.square().sum(), t.model.get_parameter("first.weight").sum()]
    torch.autograd.backward([classes(output), *(extra if _changed(i) else [])])
    t.optimizer.step()
    t.optimizer.zero_grad()


def _asks_for_gradients(t: Training, i: int) -> None:
    x = t.batch().requires_grad_()
    output = t.model(x)
    loss = classes(output)
    if _changed(i):
        (slope,) = torch.autograd.grad(output.sum(), x, create_graph=True)
        t.forget_gradients()
        loss = loss + slope.square().sum()
    t.learn(loss)


def _looks_at_the_input(t: Training, i: int) -> None:
    x = t.batch().requires_grad_()
    output = t.model(x)
    loss = classes(output)
    if _changed(i):
        torch.autograd.grad(output.sum(), x, retain_graph=True)
        t.forget_gradients()
    t.learn(loss)


def _two_calls(t: Training, i: int) -> None:
    output = t.model(t.batch())
    t.learn((output - t.model(t.batch())).square().sum() if _changed(i) else classes(output))


def _evaluates(t: Training, i: int) -> None:
    loss = _loss(t)
    t.model.eval()
    with torch.no_grad() if i % 2 else torch.inference_mode():
        t.model(t.batch(3))
    t.model.train()
    t.learn(loss)


def _forgets_no_grad(t: Training, i: int) -> None:
    t.learn(_loss(t))
    if _changed(i):
        t.model.eval()
        t.model(t.batch(3))
        t.model(t.batch(2))
        t.model.train()
        t.forget()


def _freezes(t: Training, i: int) -> None:
    t.model.get_submodule("second").requires_grad_(not _changed(i))
    t.learn(_loss(t))


def _freezes_the_first(t: Training, i: int) -> None:
    t.model.get_submodule("first").requires_grad_(not _changed(i))
    t.learn(_loss(t))


def _freezes_a_bias(t: Training, i: int) -> None:
    t.model.get_parameter("second.bias").requires_grad_(not _changed(i))
    t.learn(_loss(t))


def _ties(t: Training, i: int) -> None:
    if i == CHANGE:
        t.model.second.weight = t.model.first.weight  # type: ignore[union-attr]
    t.learn(_loss(t))


def _replaces_a_weight(t: Training, i: int) -> None:
    if i == CHANGE:
        second = t.model.get_submodule("second")
        second.weight = nn.Parameter(second.weight.detach() * 2)  # type: ignore[operator]
        t.optimizer.add_param_group({"params": [second.weight]})
    t.learn(_loss(t))


def _refills(t: Training, i: int) -> None:
    buffer = t.batch()
    loss = classes(t.model(buffer))
    if _changed(i) and not t.model.get_parameter("first.weight").requires_grad:
        buffer.fill_(99)
    t.learn(loss)


def _becomes_double(t: Training, i: int) -> None:
    if i == CHANGE:
        t.model.double()
    t.learn(classes(t.model(t.batch(dtype=t.model.get_parameter("first.weight").dtype))))


def _copies(t: Training, i: int) -> None:
    loss, x = _loss(t), t.batch()
    if t.recorded and i in (3, CHANGE):
        copy.deepcopy(t.model)(x).sum().backward()
    t.learn(loss)


CASES: dict[str, tuple[Callable[[], nn.Module], Step, int]] = {
    step.__name__.strip("_").replace("_", " "): (Net, step, holes)
    for step, holes in (
        (_usual, 0),
        (_rows_vary, 0),
        (_last_batch_is_smaller, 0),
        (_accumulates, 0),
        (_zeroes_in_place, 0),
        (_does_not_clear, 0),
        (_clears_a_part, 0),
        (_clips, 0),
        (_goes_backward_twice, 0),
        (_goes_backward_again, 0),
        (_throws_a_backward_away, 0),
        (_starts_from_several, 0),
        (_asks_for_gradients, 0),
        (_looks_at_the_input, 0),
        (_two_calls, 0),
        (_evaluates, 0),
        (_forgets_no_grad, 0),
        (_freezes, 0),
        (_freezes_the_first, 0),
        (_freezes_a_bias, 0),
        (_ties, 0),
        (_replaces_a_weight, 0),
        (_refills, 0),
        (_becomes_double, 0),
        (_copies, 0),
    )
}


@pytest.mark.parametrize("name", CASES)
def test_what_changes_on_the_way_is_recorded_right(name: str, tmp_path: Path) -> None:
    """Norms as in the twin under the oracle, the same parameters at the end, no more holes than are known."""
    build, step, holes = CASES[name]
    twins = both(build, step, tmp_path / "run.h5")
    assert len(twins.run) == len(twins.expected) == STEPS
    assert twins.same
    assert not twins.wrong(3e-5)
    assert len(twins.holes()) <= holes, twins.holes()[:5]


def test_the_short_ways_are_taken(tmp_path: Path) -> None:
    """Or the tests above would prove nothing: two weights and two biases follow from factors."""
    twins = both(Net, _usual, tmp_path / "run.h5")
    assert twins.factored[20:] == [4] * (STEPS - 20)


class Heads(nn.Module):
    """Two heads, of which the loss may use one."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.left, self.right = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both outputs."""
        hidden = torch.tanh(self.body(x))
        return self.left(hidden), self.right(hidden)


class Experts(nn.Module):
    """Each row goes through one of three layers, so that each gets as many rows as it happens."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.last = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (rows, WIDTH) to (rows, 4)."""
        chosen = x[:, :3].argmax(1)
        hidden = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows = (chosen == number).nonzero()[:, 0]
            if len(rows):
                hidden = hidden.index_put((rows,), expert(x[rows]))
        return self.last(torch.tanh(hidden))


class Awkward(Net):
    """From the change on the second layer is called by keyword, or its output is added to in place."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.calls = way, 0

    def forward(self, x: Tensor) -> Tensor:
        """Shape (rows, WIDTH) to (rows, 4)."""
        self.calls += 1
        hidden = torch.tanh(self.first(x))
        if not _changed(self.calls):
            return self.last(F.relu(self.second(hidden)))
        if self.way == "keyword":
            return self.last(F.relu(self.second(input=hidden)))
        output = self.second(hidden)
        if self.way == "twice":
            output = self.second(F.relu(output))
        if self.way == "in place":
            output += hidden
        if self.way == "hook":
            output.register_hook(lambda g: g * 7)
        return self.last(F.relu(output))


def _switches_heads(t: Training, i: int) -> None:
    t.learn(t.model(t.batch())[int(_changed(i))].square().sum())


def _few_rows(t: Training, i: int) -> None:
    t.learn(_loss(t, 1 + i % 4))


MODELS: dict[str, tuple[Callable[[], nn.Module], Step, int]] = {
    "heads": (Heads, _switches_heads, 0),
    "experts": (Experts, _few_rows, 0),
    "keyword": (lambda: Awkward("keyword"), _usual, 0),
    "twice": (lambda: Awkward("twice"), _usual, 0),
    "in place": (lambda: Awkward("in place"), _usual, 1),  # the output, the first time it is overwritten
    "hook": (lambda: Awkward("hook"), _usual, 2),  # which come back with a bias that ours would see changed
}


@pytest.mark.parametrize("name", MODELS)
def test_models_that_change_their_way_are_recorded_right(name: str, tmp_path: Path) -> None:
    """The same for models that do not always call the same modules in the same manner."""
    build, step, holes = MODELS[name]
    twins = both(build, step, tmp_path / "run.h5")
    assert twins.same
    assert not twins.wrong(3e-5)
    assert len(twins.holes()) <= holes, twins.holes()[:5]
