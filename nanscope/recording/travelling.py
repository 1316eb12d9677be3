"""Numbers on their way from a device: asked for now, read when they have come; nothing waits meanwhile."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nanscope.recording.scaling import Number


class Travelling:
    """Named numbers, some of them perhaps on a GPU: tensors of no dimensions that nobody else writes into."""

    def __init__(self, numbers: Mapping[str, Number]) -> None:
        self._known = {name: number for name, number in numbers.items() if not isinstance(number, Tensor)}
        away = {name: number for name, number in numbers.items() if isinstance(number, Tensor)}
        self._names = tuple(away)
        self._arrived: torch.cuda.Event | None = None
        if away:
            together = torch.stack([number.double() for number in away.values()])
            self._host = torch.empty_like(together, device="cpu", pin_memory=together.is_cuda)
            self._host.copy_(together, non_blocking=True)
            if together.is_cuda:
                self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
                self._arrived.record()

    @property
    def ready(self) -> bool:
        """Whether all of them can be read without waiting."""
        return self._arrived is None or bool(self._arrived.query())  # type: ignore[no-untyped-call]

    def read(self) -> dict[str, float]:
        """The numbers; waits for those that are still on their way."""
        if self._arrived is not None:
            self._arrived.synchronize()
        away = self._host.tolist() if self._names else []
        return {name: float(number) for name, number in self._known.items()} | dict(
            zip(self._names, away, strict=True)
        )
