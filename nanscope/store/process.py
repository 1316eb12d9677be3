"""Is the process that writes a run file still there?"""

from __future__ import annotations

import os
from pathlib import Path

_STATE, _START = 0, 19  # fields of /proc/<pid>/stat after the name, see proc(5)
_DEAD = ("Z", "X", "x")


def started(pid: int) -> int:
    """When a process began, in the kernel's clock ticks since boot; 0 where that cannot be told."""
    fields = _fields(pid)
    return int(fields[_START]) if fields else 0


def is_alive(pid: int, begun: int) -> bool:
    """Whether a process runs or is stopped; `begun` tells it from a later one with the same number."""
    fields = _fields(pid)
    if pid <= 0:
        return False
    if fields:
        return fields[_STATE] not in _DEAD and begun in (0, int(fields[_START]))
    return _exists(pid)


def _fields(pid: int) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return []
    fields = text.rpartition(")")[2].split()  # the name may hold spaces and brackets
    return fields if len(fields) > _START else []


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
