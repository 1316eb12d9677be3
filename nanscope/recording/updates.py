"""Updates: optimizer steps, and which of them ends a step of the training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim import optimizer as every_optimizer

from nanscope.recording.quiet import quietly

Hook = Callable[[Optimizer], None]
ELEMENTS = 16  # of each parameter


class Updates:
    """Watches optimizers.

    Args:
        optimizers: which ones; None for every optimizer that holds one of the parameters.
        before, after: called around each step of one of them.
    """

    def __init__(
        self, optimizers: Sequence[Optimizer] | None, parameters: Sequence[Tensor], before: Hook, after: Hook
    ) -> None:
        self._optimizers = optimizers
        self._parameters = frozenset(map(id, parameters))
        self._stepped: set[int] = set()
        self._before, self._after = self._hook(before), self._hook(after)
        self.attach()

    def attach(self) -> None:
        """Put the hooks on."""
        before, after = self._before, self._after
        if self._optimizers is None:
            self._handles = [
                every_optimizer.register_optimizer_step_pre_hook(before),
                every_optimizer.register_optimizer_step_post_hook(after),
            ]
        else:
            self._handles = [o.register_step_pre_hook(before) for o in self._optimizers]
            self._handles += [o.register_step_post_hook(after) for o in self._optimizers]

    @property
    def begun(self) -> bool:
        """Whether an optimizer has stepped in the step under way."""
        return bool(self._stepped)

    def concerns(self, optimizer: Optimizer) -> bool:
        """Whether an optimizer is one of those that are watched."""
        if self._optimizers is not None:
            return any(optimizer is each for each in self._optimizers)
        return any(id(p) in self._parameters for group in optimizer.param_groups for p in group["params"])

    def count(self, optimizer: Optimizer) -> bool:
        """Take note that an optimizer has stepped; whether that was the last one to wait for."""
        self._stepped.add(id(optimizer))
        return self._optimizers is None or len(self._stepped) == len(self._optimizers)

    def clear(self) -> None:
        """The step is over."""
        self._stepped.clear()

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _hook(self, call: Hook) -> Callable[[Optimizer, Any, Any], None]:
        def hook(optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
            if self._optimizers is not None or self.concerns(optimizer):
                quietly(call, optimizer)

        return hook


class ByHand:
    """Updates without an optimizer, such as `p.data.add_(p.grad, alpha=-lr)`, known by what they change.

    Between two backward passes nothing else writes into parameters. A few elements of each tell; with the
    first step of an optimizer nobody looks any more.

    Args:
        optimizers: that the user named; None if any may come.

    Attributes:
        wanted: whether no optimizer is known.
    """

    def __init__(self, optimizers: Sequence[Optimizer] | None) -> None:
        self.wanted = optimizers is None
        self._held: list[tuple[Tensor, Tensor]] = []

    def give_up(self) -> None:
        """There is an optimizer."""
        self.wanted, self._held = False, []

    def remember(self, parameters: Sequence[Tensor]) -> None:
        """A backward pass is over."""
        graded = [p for p in parameters if p.grad is not None and p.layout is torch.strided and p.numel()]
        self._held = [(p, _some(p).clone()) for p in graded]

    def stepped(self) -> bool:
        """Whether somebody has written into the parameters since; bit for bit, for a NaN is equal to none."""
        return any(_bytes(_some(parameter)) != _bytes(was) for parameter, was in self._held)


def _some(parameter: Tensor) -> Tensor:
    """A few elements, from all over it."""
    flat = parameter.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // ELEMENTS)].float()


def _bytes(values: Tensor) -> bytes:
    return values.numpy(force=True).tobytes()
