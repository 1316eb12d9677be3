"""Warnings that never end a training, charged to a line of the user's own."""

from __future__ import annotations

import inspect
import os
import sys
import warnings
from contextlib import suppress
from pathlib import Path

_OURS = str(Path(__file__).parent) + os.sep


def warn(text: str) -> None:
    """Give a RuntimeWarning; where a filter makes it an error it is dropped."""
    with suppress(Warning):
        warnings.warn(text, RuntimeWarning, stacklevel=_level())


def _level() -> int:
    """How far up from `warn` the first frame is that is neither nanscope's nor torch's; 2 if none is."""
    torch = getattr(sys.modules.get("torch"), "__file__", None)
    inner = (_OURS, "<frozen", str(Path(torch).parent) + os.sep) if torch else (_OURS, "<frozen")
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_code.co_filename.startswith(inner):
        frame, level = frame.f_back, level + 1
    return level if frame is not None else 2
