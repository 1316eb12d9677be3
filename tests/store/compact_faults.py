"""Compactions that go wrong at a chosen moment: every call to the system is a moment.

As a program, `python -m tests.store.compact_faults FOLDER`: kills compactions of the run there, one at each
moment, and prints for each moment what was left, one line of JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from nanscope.store.compaction import compact as compact_module
from nanscope.store.compaction import through
from nanscope.store.compaction.compact import compact
from tests.store.compaction import facts

CALLS = (
    (through, "write_all"),
    (os, "ftruncate"),
    (os, "fsync"),
    (os, "fchmod"),
    (Path, "replace"),
    (compact_module, "sync_folder"),
    (Path, "unlink"),
)


@contextmanager
def counting(strike: Callable[[int, str], None]) -> Iterator[list[str]]:
    """Calls `strike` with number and name before each call to the system; lists the names so far."""
    names: list[str] = []

    def hooked(call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def hook(*args: Any, **kwargs: Any) -> Any:
            names.append(name)
            strike(len(names) - 1, name)
            return call(*args, **kwargs)

        return hook

    with ExitStack() as stack:
        for place, name in CALLS:
            stack.enter_context(mock.patch.object(place, name, hooked(getattr(place, name), name)))
        yield names


def moments(path: Path) -> list[str]:
    """The names of all calls that a compaction of a copy of this run makes."""
    with copied(path.parent) as folder, counting(lambda _number, _name: None) as names:
        compact(folder / path.name)
    return list(names)


@contextmanager
def copied(folder: Path) -> Iterator[Path]:
    """A copy of a folder, for one use."""
    copy = folder.with_name(f"{folder.name}-copy")
    shutil.copytree(folder, copy)
    try:
        yield copy
    finally:
        shutil.rmtree(copy)


def chosen(names: list[str]) -> list[int]:
    """Every moment, but of the many writes only each 40th one."""
    writes = [i for i, name in enumerate(names) if name == "write_all"]
    return sorted({*writes[::40], *writes[-2:], *(i for i, name in enumerate(names) if name != "write_all")})


def kill_at(path: Path, moment: int) -> int:
    """Compact in a child that kills itself at the moment; returns how it ended."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def strike(number: int, _name: str) -> None:
        if number == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        with counting(strike):
            compact(path)
    finally:
        os._exit(1)


def main() -> None:
    """Kill at each moment; then compact what is left."""
    folder = Path(sys.argv[1])
    path = folder / "run.h5"
    expected = facts(path)
    names = moments(path)
    for moment in chosen(names):
        with copied(folder) as copy:
            code = kill_at(copy / path.name, moment)
            same = facts(copy / path.name) == expected
            left = sorted(entry.name for entry in copy.iterdir())
            compact(copy / path.name)
            tidy = [entry.name for entry in copy.iterdir()] == [path.name]
            whole = facts(copy / path.name) == expected
            found = {"moment": names[moment], "code": code, "same": same, "left": left}
            print(json.dumps(found | {"tidy": tidy, "whole": whole}))


if __name__ == "__main__":
    main()
