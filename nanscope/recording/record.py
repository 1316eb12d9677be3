"""`record`: the door for an ordinary training loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from nanscope.errors import UsageError
from nanscope.recording.base import OnNonfinite
from nanscope.recording.recorder import Recorder
from nanscope.recording.sink import KeepRun
from nanscope.store.journal import to_json
from nanscope.store.layout import DEFAULT_BUDGET


def record(
    model: nn.Module,
    optimizer: Optimizer | Iterable[Optimizer] | None = None,
    path: str | Path | None = None,
    *,
    on_nonfinite: OnNonfinite = "record",
    config: Mapping[str, Any] | None = None,
    capacity: int | None = None,
    budget: int = DEFAULT_BUDGET,
    keep_run: KeepRun = "always",
    logits: str | None = None,
    rewind: bool = True,
    keep_batch: bool = True,
    verify_remedies: bool = False,
) -> Recorder:
    """Record every step of the training in a `with` block.

    Args:
        model: the root module; each call of it with autograd on belongs to a step.
        optimizer: whose `step()` ends a step. With several, a step ends when all have stepped, or when the
            next forward or backward begins. None takes every optimizer that holds a parameter of the model.
        path: the run file; `runs/<model class>.h5` by default. A taken name gets a number. In a process group
            each rank but the first has its own, `run.rank1.h5`.
        on_nonfinite: what to do at the end of a step in which a non-finite value reached a loss, a gradient
            or a parameter: go on, raise `NonFiniteError`, or leave the `with` block.
        config: settings of the job to keep in the run file, as JSON types.
        capacity: steps in total, if known: sizes the run file. When it is full, or modules or parameters are
            added to the model, the run goes on in `run.part2.h5`.
        budget: bytes that each part of the run may take before it is compacted (4 GiB; at least 16 blocks of
            rows are kept whatever it says); beyond it the steps in the middle of a long run are
            kept as summaries, those at the start, at the end and around trouble whole.
        keep_run: which runs leave a run file: every one; "trained", those in which a step ended; "trouble",
            those in which something turned non-finite. Until that is known the rows wait in memory (at most
            32 MB of them).
        logits: name of the module whose output holds the logits; by default the root's output, if it is
            (batch, classes).
        rewind: whether to keep what is needed to execute the last steps again (at most 256 MB of states and
            64 MB of batches), and to do so once when a value turns non-finite, to name the operation, its
            line, the sample and the cause. The training goes on as if nothing had happened.
        keep_batch: whether the batch of the bad step is kept in the run file; False for private data.
        verify_remedies: whether the steps up to the bad one are executed again with one change at a time (a
            lower learning rate, clipping, without the sample, a safe form of the operation), for at most half
            a minute, to prove which change would have prevented it.

    Raises:
        UsageError: an argument is wrong, or the model is already being recorded (on entering the block).
    """
    if on_nonfinite not in ("record", "raise", "stop"):
        raise UsageError(f"on_nonfinite={on_nonfinite!r} is unknown", 'use "record", "raise" or "stop"')
    if keep_run not in ("always", "trained", "trouble"):
        raise UsageError(f"keep_run={keep_run!r} is unknown", 'use "always", "trained" or "trouble"')
    if optimizer is None:
        optimizers = None
    else:
        optimizers = (optimizer,) if isinstance(optimizer, Optimizer) else tuple(optimizer)
    if not all(isinstance(each, Optimizer) for each in optimizers or ()):
        raise UsageError(f"optimizer={optimizer!r} is no torch optimizer", "record(model, optimizer, path)")
    if budget <= 0:
        raise UsageError(f"budget={budget} leaves no room for anything", "give a number of bytes")
    _check_config(config)
    where = Path("runs") / f"{type(model).__name__}.h5" if path is None else Path(path)
    return Recorder(
        model,
        optimizers,
        _of_rank(where),
        on_nonfinite=on_nonfinite,
        config=dict(config or {}),
        capacity=capacity,
        budget=budget,
        keep_run=keep_run,
        logits=logits,
        rewind=rewind,
        keep_batch=keep_batch,
        verify_remedies=verify_remedies,
    )


def _check_config(config: Mapping[str, Any] | None) -> None:
    try:
        to_json(config)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"config cannot be kept as JSON ({error})", "use texts, numbers and lists"
        ) from error


def _of_rank(path: Path) -> Path:
    group = torch.distributed
    rank = group.get_rank() if group.is_available() and group.is_initialized() else 0
    return path.with_name(f"{path.stem}.rank{rank}{path.suffix}") if rank else path
