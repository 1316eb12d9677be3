"""Steps that are executed again: from a tape, bit for bit, and without a trace in the training."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.overrides import _get_current_function_mode_stack

from nanscope.recording import backward
from nanscope.recording.rewind.culprit import culprit
from nanscope.recording.rewind.inquiry import clear_gradients
from nanscope.recording.rewind.keeper import State, generators, held, room, set_generators
from nanscope.recording.rewind.rerun import Rerun
from nanscope.recording.rewind.rewind import Rewinder
from nanscope.recording.rewind.tape import Program

Step = Callable[[nn.Module, Optimizer], None]


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 3))


class _Watched:
    """A rewinder on a model of its own, driven as the recorder drives it."""

    def __init__(self, model: nn.Module, *optimizers: Optimizer) -> None:
        self.events: list[tuple[str, int, dict[str, object]]] = []
        self.rewinder = Rewinder(
            model,
            optimizers,
            tell=lambda kind, step, **fields: self.events.append((kind, step, fields)),
            aside=_nothing,
            fail=_raise,
            keep=lambda _: None,
        )
        self._handles = [
            o.register_step_pre_hook(lambda o, *_: self.rewinder.begin_update(o)) for o in optimizers
        ]
        backward.watch(self)

    def before_backward(self, roots: tuple[Tensor, ...]) -> None:
        self.rewinder.begin_backward(roots)

    def after_backward(self, roots: tuple[Tensor, ...]) -> None:
        self.rewinder.end_backward(float(roots[0].detach()), suspect=False)

    def backward_failed(self) -> None:
        raise AssertionError

    def end(self) -> Program:
        """End the step; its program."""
        self.rewinder.end_step()
        return self.rewinder._memory.programs[-1]

    def close(self) -> None:
        backward.unwatch(self)
        self.rewinder.close()
        for handle in self._handles:
            handle.remove()


def _raise(error: Exception) -> None:
    raise error


@contextmanager
def _nothing() -> Iterator[None]:
    yield


X = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
Y = torch.arange(6) % 3


def _plain(model: nn.Module, optimizer: Optimizer) -> None:
    optimizer.zero_grad()
    cross_entropy(model(X), Y).backward()
    optimizer.step()


def _by_hand(model: nn.Module, optimizer: Optimizer) -> None:
    """A loss of many functions, with a constant, views, in-place writes and randomness."""
    optimizer.zero_grad()
    logits = model(X)
    logits = logits + 0.1 * torch.randn_like(logits)
    chosen = torch.softmax(logits, 1)[torch.arange(6), Y]
    loss = -(chosen + 1e-6).log().mean()
    loss += 1e-3 * sum((p**2).sum() for p in model.parameters())
    with torch.no_grad():
        weight = torch.tensor([2.0])
    (loss * weight).sum().backward()
    optimizer.step()


def _clipped(model: nn.Module, optimizer: Optimizer) -> None:
    loss = cross_entropy(model(X), Y, label_smoothing=0.1)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.05)
    optimizer.step()


def _accumulated(model: nn.Module, optimizer: Optimizer) -> None:
    optimizer.zero_grad()
    for part in (slice(0, 3), slice(3, 6)):
        (cross_entropy(model(X[part]), Y[part]) / 2).backward()
    optimizer.step()


def _twice_called(model: nn.Module, optimizer: Optimizer) -> None:
    optimizer.zero_grad()
    first, second = model(X), model(-X)
    torch.autograd.backward([cross_entropy(first, Y), (first - second).pow(2).mean()])
    optimizer.step()


def _penalised(model: nn.Module, optimizer: Optimizer) -> None:
    optimizer.zero_grad()
    x = X.clone().requires_grad_()
    out = model(x)
    (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
    (cross_entropy(out, Y) + (slope.norm(dim=1) - 1).pow(2).mean()).backward()
    optimizer.step()


def _scheduled(model: nn.Module, optimizer: Optimizer) -> None:
    optimizer.param_groups[0]["lr"] *= 0.9
    _plain(model, optimizer)


def _autocast(model: nn.Module, optimizer: Optimizer) -> None:
    optimizer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        loss = cross_entropy(model(X).float(), Y)
    loss.backward()
    optimizer.step()


STEPS: dict[str, Step] = {
    "plain": _plain,
    "by hand": _by_hand,
    "clipped": _clipped,
    "accumulated": _accumulated,
    "called twice": _twice_called,
    "penalised": _penalised,
    "scheduled": _scheduled,
    "autocast": _autocast,
}
OPTIMIZERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "SGD": lambda model: SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True),
    "Adam": lambda model: Adam(model.parameters(), lr=0.01, foreach=True),
    "AdamW": lambda model: AdamW(model.parameters(), lr=0.01, fused=True, amsgrad=True),
}


def _everything(model: nn.Module, optimizer: Optimizer) -> list[Tensor]:
    states = [v for s in optimizer.state.values() for v in s.values() if isinstance(v, Tensor)]
    return [t.detach().clone() for t in (*held(model, [optimizer]), *states)]


def _equal(some: list[Tensor], others: list[Tensor]) -> bool:
    return len(some) == len(others) and all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_steps_are_executed_again_bit_for_bit(step: Step, make: Callable[[nn.Module], Optimizer]) -> None:
    """From the state before the second of five steps to that after the last; the training sees nothing."""
    model = _model()
    optimizer = make(model)
    watched = _Watched(model, optimizer)
    programs = []
    for number in range(5):
        if number == 1:
            start = State(model, [optimizer])
        step(model, optimizer)
        programs.append(watched.end())
    watched.close()
    after, drawn = _everything(model, optimizer), torch.get_rng_state()
    with room(model, [optimizer]):
        start.put()
        for program in programs[1:]:
            clear_gradients(model, [optimizer])
            Rerun(model).execute(program)
        again = _everything(model, optimizer)
    assert _equal(again, after)
    assert _equal(_everything(model, optimizer), after)
    assert torch.equal(torch.get_rng_state(), drawn)


def test_a_room_puts_everything_back() -> None:
    """Values, counts of writes, gradients, states, settings, attributes and generators."""
    model = _model()
    optimizer = Adam(model.parameters(), lr=0.1)
    _plain(model, optimizer)
    graph = model(X).sum()  # not yet gone through backwards
    before, grads = _everything(model, optimizer), [p.grad for p in model.parameters()]
    versions, drawn = [t._version for t in held(model, [optimizer])], generators()
    pointers = [p.data_ptr() for p in model.parameters()]
    with pytest.raises(ZeroDivisionError), room(model, [optimizer]):  # noqa: PT012 - it is about what came before
        State(model, [optimizer]).put()
        optimizer.param_groups[0]["lr"] = 7.0
        model[0].note = "written within"
        model[1].momentum = 0.5
        random.random()
        np.random.rand()  # noqa: NPY002 - the generator that programs draw from
        _by_hand(model, optimizer)
        raise ZeroDivisionError
    assert _equal(_everything(model, optimizer), before)
    assert [p.grad for p in model.parameters()] == grads
    assert [t._version for t in held(model, [optimizer])] == versions
    assert [p.data_ptr() for p in model.parameters()] == pointers
    assert (optimizer.param_groups[0]["lr"], model[1].momentum) == (0.1, 0.1)
    assert not hasattr(model[0], "note")
    now = generators()
    assert torch.equal(now[0], drawn[0])
    assert now[2] == drawn[2]
    assert np.array_equal(now[3]["state"]["key"], drawn[3]["state"]["key"])
    graph.backward()  # would refuse tensors that were written to


def test_generators_go_back() -> None:
    """All of them give the same numbers again."""
    states = generators()
    first = torch.rand(3).tolist(), random.random(), np.random.rand()  # noqa: NPY002 - as above
    set_generators(states)
    assert (torch.rand(3).tolist(), random.random(), np.random.rand()) == first  # noqa: NPY002


def test_a_program_keeps_nothing_that_the_step_made() -> None:
    """Only its inputs: logits of a large vocabulary would fill the memory."""
    model = _model()
    optimizer = SGD(model.parameters(), lr=0.1)
    watched = _Watched(model, optimizer)
    _by_hand(model, optimizer)
    program = watched.end()
    watched.close()
    kept = {id(tensor) for tensor, _ in program.fixed.values()}
    assert id(X) in kept
    assert all(tensor.grad_fn is None for tensor, _ in program.fixed.values())
    assert program.rows == 6


@pytest.mark.parametrize("around", ["everything", "forward", "loss"])
def test_another_mode_on_the_stack_is_left_alone(around: str) -> None:
    """`with torch.device` around one part, or begun before the recorder: the user's stays the user's."""

    def mode(part: str) -> AbstractContextManager[object]:
        return torch.device("cpu") if part == around else nullcontext()

    model = _model()
    optimizer = SGD(model.parameters(), lr=0.1)
    with mode("everything"):
        watched = _Watched(model, optimizer)
        with mode("forward"):
            logits = model(X)
        with mode("loss"):
            loss = cross_entropy(logits, Y)
        loss.backward()
        optimizer.step()
        program = watched.end()
        watched.close()
        assert len(_get_current_function_mode_stack()) == (around == "everything")
    # then what made the loss was not heard, and that is said
    assert bool(program.lacks) is (around == "everything")
    assert _get_current_function_mode_stack() == []


def test_a_row_is_to_blame_only_if_no_other_would_do() -> None:
    """Found by halving; not so if any row left out heals the step, or none does, or only two together."""
    assert culprit([], 8, lambda rows: 5 in rows) == {
        "samples": [5],
        "samples_checked": True,
        "samples_how": "halving",
    }
    assert culprit([2], 8, lambda rows: 2 in rows)["samples_checked"] is True
    assert culprit([2], 8, lambda rows: 3 in rows)["samples_checked"] is False
    for attempt in (lambda _: True, lambda _: False, lambda rows: {1, 6} <= set(rows)):
        assert culprit([], 8, attempt)["samples"] == []
    assert culprit([2], 8, lambda _: True)["samples_checked"] is False
    assert culprit([0], 1, lambda _: True)["samples_checked"] is None
