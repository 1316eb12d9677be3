"""Mixed precision: what a gradient scaler did in the step under way, and how scaled numbers are recorded.

A scaler multiplies the loss, so that the loss given to `backward()` and every gradient of the pass are too
large by its scale, which doubles and halves as the training goes on. **Loss and gradients are recorded
divided by the scale**: only so can they be compared between steps and between runs. The scale stands beside
them as `loss_scale`, and `skipped` is the share of the step's updates that the scaler left out.

Nothing here waits for a device: what lives on one is handed on as a tensor of its own, with one number.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer

from nanscope.recording import scaler as calls
from nanscope.run import MISSING, Column
from nanscope.values import Kind

Number = float | Tensor
"""A number that is known, or one on its way: a tensor of no dimensions that nobody else writes into."""

Doubles = NDArray[np.float64]
Guard = Callable[[Callable[..., None]], Callable[..., None]]


@dataclass(slots=True, eq=False)
class _Scaled:
    """A tensor that came out of `scaler.scale`, as a reference that does not keep it."""

    scaler: GradScaler
    output: Callable[[], Tensor | None]
    scale: Number
    is_used: bool = False


class Scalers:
    """Watches the gradient scalers for one recorder.

    Args:
        concerns: whether an optimizer is one that the recorder watches. It is asked about whatever the user
            steps, and must not raise.
        ended: called when `scaler.step` of such an optimizer is over, skipped or not; may raise.
        guard: makes a function one that does not raise into the training.

    Attributes:
        seen: whether a scaler that is not disabled was ever used.
    """

    def __init__(
        self, concerns: Callable[[Optimizer], bool], ended: Callable[[Optimizer], None], guard: Guard
    ) -> None:
        self.seen = False
        self._concerns, self._ended = concerns, ended
        self._is_stepping = False
        self._ran: list[Optimizer] = []
        self._left: list[tuple[GradScaler, Optimizer]] = []
        self._outputs: list[_Scaled] = []
        self._scales: dict[int, tuple[Tensor, int, Number]] = {}
        self._outcomes: list[Number] = []
        self._scale: Number | None = None
        self.scaled, self._settle, self._give_up = (
            guard(self._mark),
            guard(self._judge),
            guard(self._count_left),
        )

    def attach(self) -> None:
        """Begin to watch."""
        calls.watch(self)

    def remove(self) -> None:
        """Stop watching, and let go of everything."""
        calls.unwatch(self)
        self.step_failed()
        self.take()
        for held in (self._left, self._outputs, self._scales):
            held.clear()

    # -- what the recorder asks -----------------------------------------------------------------------

    def defers(self, optimizer: Optimizer) -> bool:
        """Whether this update runs inside of `scaler.step`: then `ended` is called when that is over.

        To be asked after every update: one that nobody asks about was skipped.
        """
        if self._is_stepping:
            self._ran.append(optimizer)
        return self._is_stepping

    def scale_of(self, roots: Sequence[Tensor]) -> Number | None:
        """The scale of a backward pass that starts from `roots`, None where nothing was scaled.

        A root that did not come out of `scaler.scale` itself (`scaler.scale(loss) / 4`) has the scale of the
        latest output that no backward pass has used yet.
        """
        known = [one for one in self._outputs if _is_one_of(one, roots)]
        if not known:
            known = [one for one in self._outputs if not one.is_used]
        for one in known:
            one.is_used = True
        self._outputs = [one for one in self._outputs if not one.is_used or one.output() is not None]
        return known[-1].scale if known else None

    def take(self) -> dict[str, Number]:
        """The scalars of the step, empty where no scaler made an update; the next step begins."""
        found: dict[str, Number] = {}
        if self._outcomes:
            found["skipped"] = _mean(self._outcomes)
        if self._scale is not None:
            found["loss_scale"] = self._scale
        self._outcomes, self._scale = [], None
        return found

    # -- what the scalers tell ------------------------------------------------------------------------

    def stepped(self, scaler: GradScaler, optimizer: Optimizer) -> None:
        """See `nanscope.recording.scaler.Watcher`."""
        ran = tuple(self._ran)
        self.step_failed()
        concerned = [each for each in ran or (optimizer,) if self._concerns(each)]
        if concerned:
            self._settle(scaler, optimizer, ran)
        for each in concerned:
            self._ended(each)

    def stepping(self) -> None:
        """See `nanscope.recording.scaler.Watcher`."""
        self.seen = self._is_stepping = True

    def step_failed(self) -> None:
        """See `nanscope.recording.scaler.Watcher`."""
        self._is_stepping, self._ran = False, []

    def updated(self, scaler: GradScaler) -> None:
        """See `nanscope.recording.scaler.Watcher`.

        An optimizer that was unscaled and not stepped since is one whose update the loop itself left out.
        """
        left = [optimizer for owner, optimizer in self._left if owner is scaler]
        self._left = [pair for pair in self._left if pair[0] is not scaler]
        self._outputs = [one for one in self._outputs if one.scaler is not scaler]
        for optimizer in filter(self._concerns, left):
            self._give_up(scaler)
            self._ended(optimizer)

    def _mark(self, scaler: GradScaler, outputs: Any) -> None:
        self.seen = True
        scale = self._read(scaler)
        if scale is not None:
            self._outputs += [_Scaled(scaler, output, scale) for output in _references(outputs)]

    def unscaled(self, scaler: GradScaler, optimizer: Optimizer) -> None:
        """See `nanscope.recording.scaler.Watcher`."""
        self._left.append((scaler, optimizer))

    def _judge(self, scaler: GradScaler, optimizer: Optimizer, ran: Sequence[Optimizer]) -> None:
        self._left = [pair for pair in self._left if pair[1] is not optimizer]
        self._scale = self._read(scaler)
        self._outcomes.append(_outcome(scaler, optimizer, ran=bool(ran)))

    def _count_left(self, scaler: GradScaler) -> None:
        if id(scaler) in self._scales:
            self._scale = self._scales[id(scaler)][-1]  # the one before the update
        self._outcomes.append(1.0)

    def _read(self, scaler: GradScaler) -> Number | None:
        """The scale, read once for each time that somebody writes it."""
        scale = scaler._get_scale_async()
        if scale is None:
            return None
        known = self._scales.get(id(scaler))
        if known is None or known[0] is not scale or known[1] != scale._version:
            known = self._scales[id(scaler)] = scale, scale._version, _own(scale)
        return known[-1]


def _references(outputs: Any) -> Iterator[Callable[[], Tensor | None]]:
    if isinstance(outputs, Tensor):
        yield weakref.ref(outputs)
    elif isinstance(outputs, list | tuple):
        for output in outputs:
            yield from _references(output)
    else:
        yield _unknown  # a map: looking into it would use it up


def _unknown() -> None:
    """A tensor that will be made later."""


def _is_one_of(one: _Scaled, roots: Sequence[Tensor]) -> bool:
    output = one.output()
    return output is not None and any(output is root for root in roots)


def _outcome(scaler: GradScaler, optimizer: Optimizer, *, ran: bool) -> Number:
    """1 where the update was skipped, 0 where it was made.

    An optimizer that handles scaled gradients by itself (`fused=True`) is called in any case and skips inside
    its kernel: only the scaler's flags, which may still be on the device, know about it. They are asked too
    about an optimizer of whose updates torch does not tell.
    """
    is_told = getattr(type(optimizer).step, "hooked", False)
    found = scaler._per_optimizer_states.get(id(optimizer), {}).get("found_inf_per_device")
    if not found or (is_told and not getattr(optimizer, "_step_supports_amp_scaling", False)):
        return float(not ran)
    flags = list(found.values())
    home = flags[0].device
    together = [flag.to(home, non_blocking=True) for flag in flags]
    return _own(together[0] if len(together) == 1 else torch.stack(together).amax())


def _own(number: Tensor) -> Number:
    """The number, or on a device a copy that later writes do not reach."""
    return float(number) if _is_here(number) else number.detach().clone()


def _is_here(number: Tensor) -> bool:
    """Whether it can be read without waiting for a device."""
    return number.device.type == "cpu"


def _mean(numbers: Sequence[Number]) -> Number:
    home = next((number.device for number in numbers if isinstance(number, Tensor)), None)
    if home is None:
        return sum(map(float, numbers)) / len(numbers)
    if len(numbers) == 1:
        return numbers[0]
    return torch.stack([_on(number, home) for number in numbers]).mean()


def _on(number: Number, home: torch.device) -> Tensor:
    if isinstance(number, Tensor):
        return number.to(home, non_blocking=True)
    return torch.full((), number, device=home)  # a kernel; torch.tensor would copy, and wait for it


def scaled_positions(columns: Sequence[Column]) -> NDArray[np.intp]:
    """Positions in a row of what a loss scale multiplies: the loss, norms and maxima of gradients."""
    return np.flatnonzero([_is_scaled(column) for column in columns])


def _is_scaled(column: Column) -> bool:
    if column.site is None:
        return column.stat == "loss"
    return column.site.kind in (Kind.GRAD_OUTPUT, Kind.GRAD) and column.stat in ("l2", "abs_max")


def unscale(rows: NDArray[np.floating[Any]], positions: NDArray[np.intp], scales: Doubles) -> None:
    """Divide what a loss scale has multiplied by it, in place.

    Args:
        rows: shape (rows, columns), float32 or float64; NaN, inf and MISSING stay as they are.
        positions: which columns, see `scaled_positions`.
        scales: shape (rows,), 1 where nothing was scaled. A scale that is not finite divides nothing: what it
            has touched is not finite either. At a scale of 0 a finite number is lost and becomes MISSING.
    """
    (at,) = np.nonzero((scales != 1) & np.isfinite(scales))
    if not at.size:
        return
    block = rows[np.ix_(at, positions)]
    finite = np.isfinite(block)
    limit = float(np.finfo(rows.dtype).max)
    with np.errstate(all="ignore"):  # of what is not finite, and 0 / 0, nothing is kept
        divided = np.clip(block.astype(np.float64) / scales[at, None], -limit, limit)
    divided = np.where(scales[at, None] == 0, np.float64(MISSING), divided)
    block[finite] = divided[finite]
    rows[np.ix_(at, positions)] = block
