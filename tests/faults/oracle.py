"""The truth of the faults, found slowly and without nanscope.

Two independent looks at the same training. The symptom: the first loss, gradient or parameter that is not
finite, read where anybody could read it. The births: every operation of torch whose inputs were finite and
whose output was not, seen from a dispatch mode that checks all of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

UNINITIALISED = ("empty", "resize")


@dataclass(frozen=True, slots=True)
class Birth:
    """One operation and what it made; `rows` are samples of the batch, read off its first dimension."""

    step: int
    phase: str
    module: str
    op: str
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Symptom:
    """The first thing that anybody could have seen: `loss`, `gradient` or `parameter` not finite."""

    step: int
    phase: str
    what: str


@dataclass(slots=True)
class Seen:
    """What the oracle saw of one training."""

    births: list[Birth] = field(default_factory=list)
    symptom: Symptom | None = None
    steps: int = 0
    losses: list[float] = field(default_factory=list)
    ends_finite: bool = True


def finite(tensors: Iterable[Any]) -> bool:
    """Whether every floating-point tensor among them is finite; other things are."""
    return all(
        bool(each.isfinite().all())
        for each in tensors
        if isinstance(each, Tensor) and each.is_floating_point() and each.layout is torch.strided
    )


def without_nan(tensors: Iterable[Any]) -> bool:
    """Whether no floating-point tensor among them has a NaN."""
    return all(
        not bool(each.isnan().any())
        for each in tensors
        if isinstance(each, Tensor) and each.is_floating_point() and each.layout is torch.strided
    )


class Oracle:
    """`Oracle().watch` stands in for `nanscope.record`; `.seen` is what it saw."""

    def __init__(self) -> None:
        self.seen = Seen()
        self.phase = "data"
        self._modules: list[str] = []
        self._begins: list[int] = []
        self._spans: list[tuple[int, int, str]] = []
        self._waiting: set[int] = set()
        self._stepped = False
        self._broken_output = False
        self._batch = 1

    @contextmanager
    def watch(self, model: nn.Module, optimizer: Optimizer | Iterable[Optimizer] | None = None) -> Any:
        """Watch the training of a `with` block."""
        optimizers = _as_tuple(optimizer)
        self._waiting = {id(each) for each in optimizers}
        with ExitStack() as stack:
            self._attach(stack, model, optimizers)
            if not finite(model.state_dict().values()):
                self.seen.symptom = Symptom(0, "init", "parameter")
            yield self
        self.seen.ends_finite = finite(model.parameters()) and finite(
            torch.tensor(self.seen.losses[-1:], dtype=torch.float64).unbind()
        )

    def _attach(self, stack: ExitStack, model: nn.Module, optimizers: tuple[Optimizer, ...]) -> None:
        for name, module in model.named_modules():
            stack.callback(module.register_forward_pre_hook(self._entering(name)).remove)
            stack.callback(module.register_forward_hook(self._leaving(name)).remove)
        for each in optimizers:
            stack.callback(each.register_step_pre_hook(self._updating).remove)
            stack.callback(each.register_step_post_hook(self._updated(model, optimizers)).remove)
        stack.enter_context(patch("torch.autograd.backward", self._backward(model)))
        stack.enter_context(patch("torch.amp.GradScaler.step", self._scaled_step()))
        stack.enter_context(Births(self))

    def _entering(self, name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if not self._modules and torch.is_grad_enabled():
                self._note_data(inputs)
            self._modules.append(name)
            self._begins.append(torch._C._autograd._get_sequence_nr())
            self.phase = "forward"

        return hook

    def _note_data(self, inputs: tuple[Any, ...]) -> None:
        self._broken_output = False
        sizes = [len(each) for each in tree_leaves(inputs) if isinstance(each, Tensor) and each.ndim]
        self._batch = sizes[0] if sizes else 1
        if self.seen.symptom is None and not finite(tree_leaves(inputs)):
            self.seen.symptom = Symptom(self.seen.steps, "data", "input")

    def _leaving(self, name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self._modules.pop()
            begin = self._begins.pop()
            self._spans.append((begin, torch._C._autograd._get_sequence_nr(), name))
            if not self._modules:
                self.phase = "loss"
                self._broken_output = not finite(tree_leaves(output))

        return hook

    def _backward(self, model: nn.Module) -> Callable[..., Any]:
        original = torch.autograd.backward

        def backward(tensors: Any, *args: Any, **kwargs: Any) -> None:
            losses = tree_leaves(tensors)
            self.seen.losses.append(float(losses[0].detach().double().sum()))
            phase = "forward" if self._broken_output else "loss"
            self._note(finite(losses), phase, "loss")
            self.phase = "backward"
            original(tensors, *args, **kwargs)
            self.phase = "update"
            self._note(finite(each.grad for each in model.parameters()), "backward", "gradient")

        return backward

    def _note(self, fine: bool, phase: str, what: str) -> None:
        if not fine and self.seen.symptom is None:
            self.seen.symptom = Symptom(self.seen.steps, phase, what)

    def _updating(self, _optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        self.phase = "update"

    def _updated(self, model: nn.Module, optimizers: tuple[Optimizer, ...]) -> Callable[..., None]:
        def hook(optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
            self._note(finite(model.parameters()), "update", "parameter")
            self._waiting.discard(id(optimizer))
            if not self._waiting:
                self._waiting = {id(each) for each in optimizers}
                self._end_step()

        return hook

    def _end_step(self) -> None:
        self.seen.steps += 1
        self.phase = "data"
        self._stepped = True
        self._spans.clear()

    def _scaled_step(self) -> Callable[..., Any]:
        original = torch.amp.GradScaler.step

        def step(scaler: torch.amp.GradScaler, *args: Any, **kwargs: Any) -> Any:
            self._stepped = False
            result = original(scaler, *args, **kwargs)
            if not self._stepped:
                self._end_step()
            return result

        return step

    def add(self, op: str, output: Tensor) -> None:
        """A birth, seen by the dispatch mode."""
        node = torch._C._current_autograd_node()
        module = self._module_of(node) if node is not None else (self._modules or [""])[-1]
        name = snake(node.name()) if node is not None else op
        phase = "backward" if node is not None else self.phase
        self.seen.births.append(Birth(self.seen.steps, phase, module, name, self._samples_of(output)))

    def _samples_of(self, output: Tensor) -> tuple[int, ...]:
        """Attention folds heads into the first dimension: several rows in a row are one sample."""
        if not output.ndim:
            return ()
        rows = (~output.isfinite()).flatten(1).any(1) if output.ndim > 1 else ~output.isfinite()
        fold = max(1, len(rows) // self._batch) if len(rows) % self._batch == 0 else 1
        return tuple(sorted({row // fold for row in rows.nonzero().flatten().tolist()}))

    def _module_of(self, node: Any) -> str:
        number = node._sequence_nr()
        inside = [(end - begin, name) for begin, end, name in self._spans if begin <= number < end]
        return min(inside)[1] if inside else ""


class Births(TorchDispatchMode):
    """Checks every operation of torch, before and after."""

    def __init__(self, oracle: Oracle) -> None:
        super().__init__()
        self._oracle = oracle

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run it, and note it when it made something that is not finite."""
        inputs = tree_leaves((args, kwargs))
        fine = finite if finite(inputs) else without_nan
        watched = fine(inputs)
        result = func(*args, **(kwargs or {}))
        name = canonical(func.overloadpacket.__name__)
        if watched and not name.startswith(UNINITIALISED):
            born = next((each for each in tree_leaves(result) if not fine((each,))), None)
            if born is not None:
                self._oracle.add(name, born)
        return result


def canonical(name: str) -> str:
    """Aten's name without clutter: `_native_batch_norm_legit` is `batch_norm_legit`."""
    return name.strip("_").removeprefix("native_").removesuffix("_backward")


def snake(node: str) -> str:
    """Name of the operation that a node of the graph belongs to: `NllLossBackward0` is `nll_loss`.

    A custom function keeps its class name: its node has no number behind.
    """
    if node.endswith("Backward"):
        return node.removesuffix("Backward")
    words = re.sub(r"Backward\d+$", "", node)
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", words).lower().removeprefix("native_")


def _as_tuple(optimizer: Optimizer | Iterable[Optimizer] | None) -> tuple[Optimizer, ...]:
    if optimizer is None:
        return ()
    return (optimizer,) if isinstance(optimizer, Optimizer) else tuple(optimizer)
