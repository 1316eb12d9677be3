"""What a run file keeps of the moment before a bad step: the state, and what of it was broken already."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from nanscope.errors import UsageError
from nanscope.recording import stats
from nanscope.recording.finite import is_finite
from nanscope.recording.places import plain
from nanscope.recording.state import room_for
from nanscope.store.snapshots.writer import SnapshotRoom

SPARE_BYTES = 1 << 16  # a later batch may have more rows, or more in it, than the first
MOST_STATE_BYTES = 256 << 20  # of the state before a bad step, in the run file


def snapshot_room(model: nn.Module, optimizers: Sequence[Optimizer], batch: Any) -> SnapshotRoom | None:
    """For the state before a bad step; None if that is too large or cannot be kept."""
    try:
        size = room_for(model, optimizers, batch)
    except UsageError:
        return None
    size += max(size // 4, SPARE_BYTES)
    return SnapshotRoom(1, size) if size <= MOST_STATE_BYTES else None


def broken_state(model: nn.Module) -> dict[str, dict[str, list[int]]]:
    """Number of NaN and of inf in each parameter and buffer that holds any."""
    held = {"parameters": model.named_parameters(), "buffers": model.named_buffers()}
    return {kind: dict(_broken(named)) for kind, named in held.items()}


def _broken(named: Iterable[tuple[str, Tensor]]) -> Iterable[tuple[str, list[int]]]:
    for name, tensor in named:
        if not is_finite(tensor):
            exact = stats.examine(tensor.detach())
            yield plain(name), [exact.nan_count, exact.inf_count]
