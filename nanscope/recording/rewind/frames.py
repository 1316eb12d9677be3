"""Frames: where in the user's program something was called from."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from types import CodeType, FrameType
from typing import NamedTuple

import torch
from torch.optim import optimizer

DEEPEST = 4  # frames of the user's that are kept of a call
MOST_CODES = 10_000  # that are known at once; a program may make functions without end
_HOME = str(Path(torch.__file__).parent)
_OURS = str(Path(__file__).parents[1])
_OPTIMIZER = optimizer.__file__
_STANDARD = str(Path(functools.__file__).parent) + os.sep + "contextlib"

Frame = tuple[str, int, str]
"""File, line and function."""

Trace = tuple[tuple[CodeType, int], ...]
"""Code and instruction of frames, innermost first: their lines cost as much as all else of an event."""


class _Kind(NamedTuple):
    """Whose code it is; it is kept, so that no other gets its id."""

    code: CodeType
    is_users: bool
    is_ours: bool
    is_optimizers: bool


_known: dict[int, _Kind] = {}  # by id, because to hash code is to hash all that it holds


def _kind(code: CodeType) -> _Kind:
    if len(_known) >= MOST_CODES:
        _known.clear()
    name = code.co_filename
    users = not name.startswith((_HOME, _OURS, "<frozen", _STANDARD))
    return _known.setdefault(id(code), _Kind(code, users, name.startswith(_OURS), name == _OPTIMIZER))


def is_users(code: CodeType) -> bool:
    """Whether code is neither torch's nor ours."""
    return (_known.get(id(code)) or _kind(code)).is_users


def is_ours(code: CodeType) -> bool:
    """Whether code is a recorder's."""
    return (_known.get(id(code)) or _kind(code)).is_ours


def is_optimizers(code: CodeType) -> bool:
    """Whether code is that of torch's base of all optimizers, such as `zero_grad`."""
    return (_known.get(id(code)) or _kind(code)).is_optimizers


def trace(frame: FrameType | None) -> Trace:
    """The innermost frames that are neither torch's nor ours, innermost first."""
    found: list[tuple[CodeType, int]] = []
    while frame is not None and len(found) < DEEPEST:
        code = frame.f_code
        if (_known.get(id(code)) or _kind(code)).is_users:
            found.append((code, frame.f_lasti))
        frame = frame.f_back
    return tuple(found)


def is_at(frame: FrameType | None, came: Trace) -> bool:
    """Whether the trace of a frame is a known one, without writing it down."""
    found, length = 0, len(came)
    while frame is not None and found < DEEPEST:
        code = frame.f_code
        if found < length and code is came[found][0] and frame.f_lasti == came[found][1]:
            found += 1
        elif (_known.get(id(code)) or _kind(code)).is_users:
            return False
        frame = frame.f_back
    return found == length


def lines(came: Trace) -> tuple[Frame, ...]:
    """The same with file, line and function."""
    return tuple((code.co_filename, _line(code, at), code.co_name) for code, at in came)


def _line(code: CodeType, at: int) -> int:
    """The line of an instruction."""
    found = (line for begin, end, line in code.co_lines() if begin <= at < end)
    return next(found, None) or code.co_firstlineno
