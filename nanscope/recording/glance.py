"""Glance: a look at what a call returned that belongs to no training, and its origin if it is not finite.

The call is executed once more under watch, on a copy of the module where it can be copied: what it counts or
collects must not be counted twice. What the caller himself put in is no fault of the module, and neither is
an infinity that no operation made from finite numbers, such as masked logits.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from nanscope.recording.discovery import Call
from nanscope.recording.finite import is_finite
from nanscope.recording.passes import tensors_in
from nanscope.recording.quiet import loud
from nanscope.recording.rewind.keeper import State, room
from nanscope.recording.rewind.rerun import Rerun
from nanscope.recording.rewind.tape import Context, Event, Program

Fields = Mapping[str, Any]
"""Of the event `origin`."""


def glance(call: Call, output: Any) -> Fields | None:
    """The origin of what is not finite in an output; None where nothing is, or where it is meant.

    Fields without an `op` tell of a call that could not be executed again.
    """
    broken = [tensor for tensor in tensors_in(output) if not is_finite(tensor)]
    if not broken or not _counts(call.module, broken):
        return None
    noticed = 0 if call.recorder is None else call.recorder.steps
    about = {"noticed": noticed, "steps_back": 0, "reproduced": True}
    try:
        with loud(), torch.inference_mode(mode=False):  # the watch counts writes, which is not done in it
            program = _program(call)
            found = _birth(_copy(call.module), program)
    except Exception:  # noqa: BLE001 - a program may refuse to be executed again in any way
        return _unexplained(call, broken, about)
    if found is None or found.get("phase") == "data":
        return None
    return {**found, **about, "rows": program.rows}


def _counts(module: nn.Module, broken: list[Tensor]) -> bool:
    """Whether it matters: what only accumulates an evaluation may say by a NaN that it has nothing to say."""
    accumulates = all(callable(getattr(module, name, None)) for name in ("update", "compute"))
    return not accumulates or any(tensor.requires_grad for tensor in broken)


def _program(call: Call) -> Program:
    """The call as a step that was left before its end."""
    autocast = {"cpu": torch.get_autocast_dtype("cpu")} if torch.is_autocast_enabled("cpu") else {}
    context = Context(call.rng, (), autocast)
    args, kwargs = tree_map(_plain, (call.args, dict(call.kwargs)))
    program = Program(0, [Event(None, args, kwargs, call.came, context=context)])
    program.training = [part.training for part in call.module.modules()]
    program.graded = [parameter.requires_grad for parameter in call.module.parameters()]
    program.is_open = True
    program.see(args, kwargs)
    program.seal()
    return program


def _plain(value: Any) -> Any:
    """A tensor of inference mode as an ordinary one."""
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def _copy(module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(module)
    except Exception:  # noqa: BLE001 - weights computed from others, handles of files: not everything can be
        return module


def _birth(model: nn.Module, program: Program) -> dict[str, Any] | None:
    from nanscope.recording.rewind.watch import watch  # noqa: PLC0415 - only a call in trouble needs it

    with room(model, ()):
        state, rerun = State(model, ()), Rerun(model)
        birth = watch(
            lambda: rerun.execute(program),
            model,
            (),
            inputs=program.inputs,
            rows=program.rows,
            again=state.put,
            given=lambda: None if rerun.given is None else rerun.given.where,
            is_open=True,
        )
        return None if birth is None else birth.data


def _unexplained(call: Call, broken: list[Tensor], about: Fields) -> Fields | None:
    """A NaN that came of finite numbers, though nobody can say how."""
    given = [*tensors_in(call.args), *tensors_in(call.kwargs)]
    if not all(map(is_finite, given)) or not any(bool(tensor.isnan().any()) for tensor in broken):
        return None
    return {"phase": "forward", "module": "", **about, "reproduced": False}
