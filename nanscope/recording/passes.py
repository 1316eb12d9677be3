"""What the probes collected of one call of the root module."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nanscope.recording import stats

NOTHING = torch.empty(0)
OURS = -1  # key of our hook among those of a tensor; torch counts from 0

Call = tuple[int, Tensor, int, int, list[Tensor]]
"""A module's output: its place, the tensor, the count of writes into it when it was seen, the place of its
gradient, and the gradients that have arrived since the last look (one at most per backward pass)."""


@dataclass(slots=True)
class Measured:
    """A tensor that was measured at once; `exact` if its norm was not finite, `maxima` of its units."""

    place: int
    dtype: torch.dtype
    norm: Tensor
    peak: Tensor | None = None
    maxima: Tensor | None = None
    exact: stats.Exact | None = None


LinearCall = tuple[int, nn.Linear, Tensor, int]
"""A call of a Linear layer: the number of its `Call` in the pass, the layer, what went in, and the count of
writes into that when it did."""


@dataclass(slots=True, eq=False)
class Pass:
    """One call of the root module with autograd on.

    Attributes:
        rows: samples that went in.
        entering: what went in, and `written` the counts of writes into each when it did.
        calls: the outputs of modules that are kept until the backward pass is over.
        linears: calls of Linear layers, whose weight gradient may be had from its factors.
        measured: what was measured at once, outputs and gradients of outputs.
        checked: tensors with their places and counts of writes, to see whether somebody writes into them.
        touched: whether one of these gradients arrived.
        spent: whether it was looked at after a backward pass; only gradients of another one are new then.
        logits: a (rows, classes) tensor that the call returned, or that the named module returned within it;
            `version` counts the writes into it.
        node: the autograd node of what the call returned.
        unfolded: whether it was noted as a usual pass, that is without the calls of Linear layers.
    """

    rows: int = 0
    entering: list[Tensor] = field(default_factory=list)
    written: list[int] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    linears: list[LinearCall] = field(default_factory=list)
    measured: list[Measured] = field(default_factory=list)
    checked: list[tuple[int, Tensor, int]] = field(default_factory=list)
    touched: bool = False
    spent: bool = False
    logits: Tensor | None = None
    version: int = 0
    node: Any = None
    unfolded: bool = False

    @property
    def reached(self) -> bool:
        """Whether a gradient has arrived at any of its outputs since the last look."""
        return self.touched or any(call[4] for call in self.calls)

    @property
    def untouched(self) -> bool:
        """Whether nothing has happened to it."""
        return not (self.spent or self.calls or self.measured or self.entering)

    @property
    def has_logits(self) -> bool:
        """Whether there are logits, still as the model returned them."""
        return self.logits is not None and self.logits._version == self.version

    def measured_outputs(self, entry: int) -> bool:
        """Whether anything was measured but what entered, at the place `entry`."""
        return any(seen.place != entry for seen in self.measured)

    def spend(self) -> None:
        """It was looked at."""
        for call in self.calls:
            call[4].clear()
        self.entering, self.written, self.linears, self.measured, self.checked = [], [], [], [], []
        self.touched, self.spent, self.logits = False, True, None

    def restart(self, gradients: frozenset[int]) -> None:
        """A backward pass begins: gradients that came before it, by `autograd.grad`, are not of its loss.

        Args:
            gradients: the places of gradients of outputs.
        """
        for call in self.calls:
            call[4].clear()
        if self.touched:
            self.measured = [seen for seen in self.measured if seen.place not in gradients]
            self.touched = False

    def let_go(self) -> None:
        """Hold nothing: hooks of its outputs hold this, and through those outputs would hold themselves.

        No collector of garbage sees such a circle, for part of it lies in autograd's graph.
        """
        self.spend()
        self.calls, self.node = [], None

    def strip(self) -> None:
        """Let go of the outputs; their gradients can still arrive."""
        self.calls = [(out, NOTHING, 0, back, arrived) for out, _, _, back, arrived in self.calls]


class UsualPass:
    """A pass that goes as the one before it, so far: the least that has to be noted.

    Attributes:
        begun: whether it holds anything.
        expected: whether the forward pass went as it should, so that its backward pass can be followed.
        spent: whether it was looked at.
        rows, entering, written: as of a `Pass`.
        returned: what the root returned.
        outs: places of the outputs, in the order of the calls, and `kept`, the tensors.
        arrived: where the gradients arrive of those outputs whose gradient is awaited.
        fed: the arguments of the calls.
    """

    __slots__ = (
        "arrived",
        "begun",
        "entering",
        "expected",
        "fed",
        "kept",
        "outs",
        "returned",
        "rows",
        "spent",
        "written",
    )

    def __init__(self) -> None:
        self.begun = self.spent = self.expected = False
        self.rows = 0
        self.returned: Any = None
        self.entering: list[Tensor] = []
        self.written: list[int] = []
        self.outs: list[int] = []
        self.kept: list[Tensor] = []
        self.arrived: list[list[Tensor]] = []
        self.fed: list[tuple[Any, ...]] = []

    def clear(self) -> None:
        """Hold nothing."""
        self.begun = self.spent = self.expected = False
        self.returned = None
        self.entering.clear()
        self.written.clear()
        self.outs.clear()
        self.kept.clear()
        self.arrived.clear()
        self.fed.clear()


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every non-empty floating or complex tensor in nested tuples, lists, dicts and dataclasses."""
    if isinstance(value, Tensor):
        if (value.is_floating_point() or value.is_complex()) and value.numel():
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors_in(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for field_ in fields(value):
            yield from tensors_in(getattr(value, field_.name))


def await_gradient(output: Tensor, arrived: list[Tensor]) -> None:
    """Have the gradient of a tensor appended to a list: `register_hook`, without what that does besides."""
    node = output.grad_fn
    if node is None:
        return
    if output._backward_hooks is not None:
        output.register_hook(arrived.append)  # type: ignore[no-untyped-call]
        return
    hooks = output._backward_hooks = OrderedDict()
    hooks[OURS] = arrived.append
    node._register_hook_dict(output)
