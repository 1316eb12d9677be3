"""The state of a training: taken as pieces for a snapshot, and put back bit for bit.

In it are the parameters and buffers (non-persistent ones, too), each optimizer's state and settings, every
random number generator, and the batch. Not in it are gradients, learning rate schedulers, a GradScaler, the
position in the data, and what modules keep in Python attributes.

How a step is executed again: `capture` before the step and put it into the run file; when the step turns out
bad, `capture` once more to come back later, `restore` the snapshot, run the step under watch, `restore` the
later state. `restore` writes in place: whoever holds a parameter, buffer or optimizer tensor holds it still.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Optimizer

from nanscope.errors import UsageError
from nanscope.recording.rng import RngRestorer, pack_rng
from nanscope.recording.tree import Packer, Unpacker, malformed
from nanscope.store.snapshots.reader import Snapshot
from nanscope.store.snapshots.slots import Piece, slot_bytes_for

_VERSION = 1
_ENTRY_BYTES = 512  # what an entry takes beside its elements: in the table, in `meta`, for its alignment
_DAMAGE = (KeyError, IndexError, ValueError, TypeError, AttributeError, RecursionError, OverflowError)


def capture(
    model: nn.Module, optimizers: Optimizer | Sequence[Optimizer] = (), batch: Any = None
) -> tuple[Mapping[str, Piece], dict[str, Any]]:
    """The state as it is now; the pieces read the tensors later, so put them before the training goes on.

    Args:
        model: whose parameters and buffers; tied ones are stored once.
        optimizers: one or several; their parameters need not be the model's.
        batch: nested tuples, lists and dicts of tensors, numpy arrays, numbers, strings and None.

    Returns:
        What `RunWriter.snapshot` takes: the pieces by name, and the rest as JSON types.

    Raises:
        UsageError: a tensor is sparse, quantized, without values, or an object is of no kind named above.
    """
    packer = Packer()
    tensors = {name: packer.tensor(t, f"model.{name}") for name, t in _tensors(model)}
    meta = {
        "version": _VERSION,
        "model": tensors,
        "optimizers": [_pack_optimizer(packer, i, one) for i, one in enumerate(_several(optimizers))],
        "rng": pack_rng(packer),
        "batch": packer.pack(batch, "batch", whole=True),
    }
    return packer.pieces, meta


def restore(snapshot: Snapshot, model: nn.Module, optimizers: Optimizer | Sequence[Optimizer] = ()) -> Any:
    """Put a state back; everything is read and compared before anything is changed.

    Takes as much memory as the state has bytes. Gradients and `requires_grad` stay as they are. An optimizer
    that had no state yet has none again.

    Returns:
        The batch, as new tensors on the devices where they were; None if none was stored.

    Raises:
        UsageError: the model or an optimizer is another one than the snapshot's; nothing was changed.
        RunFileError: the file is damaged; nothing was changed.
    """
    meta, unpacker = snapshot.meta, Unpacker(snapshot)
    try:
        if meta["version"] != _VERSION:
            raise UsageError("the snapshot is of another version of nanscope", "pip install -U nanscope")
        _plan_model(unpacker, meta["model"], model)
        plans = _plan_optimizers(unpacker, meta["optimizers"], _several(optimizers))
        rng = RngRestorer(meta["rng"], unpacker)
        batch = unpacker.unpack(meta["batch"])
    except _DAMAGE as error:
        raise malformed("no state that makes sense") from error
    unpacker.apply()
    for plan in plans:
        plan.apply()
    rng.apply()
    return batch


def room_for(model: nn.Module, optimizers: Optimizer | Sequence[Optimizer] = (), batch: Any = None) -> int:
    """Bytes that a slot needs for states of this training, also for what its optimizers will add.

    Before the first step an optimizer has no state; what it will have is estimated from its kind.
    """
    pieces, meta = capture(model, optimizers, batch)
    added = sum(_added_bytes(optimizer) for optimizer in _several(optimizers))
    return slot_bytes_for(pieces, meta) + added


def _several(optimizers: Optimizer | Sequence[Optimizer]) -> Sequence[Optimizer]:
    return [optimizers] if isinstance(optimizers, Optimizer) else optimizers


def _tensors(model: nn.Module) -> Iterable[tuple[str, Tensor]]:
    """Parameters and buffers, under each of their names: ties must still be ties."""
    return itertools.chain(
        model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)
    )


def _pack_optimizer(packer: Packer, number: int, optimizer: Optimizer) -> dict[str, Any]:
    groups, state = [], []
    for g, group in enumerate(optimizer.param_groups):
        place = f"optimizer{number}.group{g}"
        settings = {key: value for key, value in group.items() if key != "params"}
        refs = [packer.tensor(p, f"{place}.{i}") for i, p in enumerate(group["params"])]
        groups.append({"parameters": refs, "settings": packer.pack(settings, place)})
        for i, parameter in enumerate(group["params"]):
            if parameter in optimizer.state:
                name = f"optimizer{number}.{packer.name_of(parameter)}"
                state.append([g, i, packer.pack(dict(optimizer.state[parameter]), name)])
    if len(state) != len(optimizer.state):
        raise UsageError(
            f"{type(optimizer).__name__} keeps state of what is not in its groups",
            "a snapshot cannot hold it",
        )
    return {"kind": type(optimizer).__name__, "groups": groups, "state": state}


def _plan_model(unpacker: Unpacker, stored: Mapping[str, Any], model: nn.Module) -> None:
    live = dict(_tensors(model))
    different = sorted(stored.keys() ^ live.keys())
    if different:
        raise UsageError(f"the snapshot is of another model: {different[0]!a} is in only one of them")
    for name, tensor in live.items():
        unpacker.into(tensor, stored[name], name)


def _plan_optimizers(
    unpacker: Unpacker, stored: Sequence[Any], optimizers: Sequence[Optimizer]
) -> list[_OptimizerPlan]:
    if len(stored) != len(optimizers):
        raise UsageError(f"the snapshot is of {len(stored)} optimizers, here are {len(optimizers)}")
    return [_OptimizerPlan(unpacker, s, o) for s, o in zip(stored, optimizers, strict=True)]


class _OptimizerPlan:
    """What an optimizer is to become; the live one is only read until `apply`."""

    def __init__(self, unpacker: Unpacker, stored: Mapping[str, Any], optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._settings: list[dict[str, Any]] = []
        self._state: dict[Tensor, dict[str, Any]] = {}
        kind, groups = type(optimizer).__name__, optimizer.param_groups
        lengths = [len(group["params"]) for group in groups]
        if (stored["kind"], [len(group["parameters"]) for group in stored["groups"]]) != (kind, lengths):
            raise UsageError(
                f"the snapshot is of another optimizer than this {kind}, or of other groups in it"
            )
        for g, (group, live) in enumerate(zip(stored["groups"], groups, strict=True)):
            for i, (node, parameter) in enumerate(zip(group["parameters"], live["params"], strict=True)):
                unpacker.into(parameter, node, f"parameter {i} of group {g}")
            self._settings.append(unpacker.unpack(group["settings"], live))
        for g, i, node in stored["state"]:
            parameter = groups[g]["params"][i]
            self._state[parameter] = unpacker.unpack(node, optimizer.state.get(parameter))

    def apply(self) -> None:
        """Set settings and state."""
        for group, settings in zip(self._optimizer.param_groups, self._settings, strict=True):
            group.update(settings)
        live = self._optimizer.state
        for parameter in set(live) - set(self._state):
            del live[parameter]
        for parameter, values in self._state.items():
            live[parameter].clear()
            live[parameter].update(values)


def _added_bytes(optimizer: Optimizer) -> int:
    """Bytes of state that an optimizer may still make: none once it has some."""
    if optimizer.state:
        return 0
    return sum(
        _tensors_per_parameter(optimizer, group) * (parameter.nbytes + _ENTRY_BYTES)
        for group in optimizer.param_groups
        for parameter in group["params"]
    )


def _tensors_per_parameter(optimizer: Optimizer, group: Mapping[str, Any]) -> int:
    if isinstance(optimizer, SGD):
        return int(group["momentum"] != 0)
    if isinstance(optimizer, LBFGS):
        return (
            2 * int(group["history_size"]) + 3
        )  # of differences of steps and of gradients, and the last ones
    return 3  # Adam with amsgrad, RMSprop with momentum and centred
