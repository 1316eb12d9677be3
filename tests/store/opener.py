"""Open run files, and say as JSON what became of each: `python -m tests.store.opener [--threads] FILE...`.

A program of its own: what it opens, loads and needs is that of opening run files and nothing else.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from nanscope.errors import RunFileError
from nanscope.store.reader import open_run

MEMORY = 1 << 30

touched: list[str] = []


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Audit hook: every file, folder, library, module or program that is asked for."""
    if event in (
        "open",
        "import",
        "os.listdir",
        "os.scandir",
        "ctypes.dlopen",
        "subprocess.Popen",
        "os.exec",
    ):
        touched.append(f"{event} {arguments[0]}")


def outcome(path: str) -> str:
    """`opened`, or the words of the refusal."""
    try:
        open_run(path)
    except RunFileError as error:
        return str(error)
    return "opened"


def main() -> None:
    """Open each file within a bound on memory, then with the bound that the audit hook sees."""
    release = threading.Event()
    if "--threads" in sys.argv:
        threading.Thread(target=release.wait).start()
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    limit = pages * os.sysconf("SC_PAGESIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    paths = [name for name in sys.argv[1:] if name != "--threads"]
    sys.addaudithook(watch)
    outcomes = {path: outcome(path) for path in paths}
    seen = list(touched)
    release.set()
    children: list[int] = []
    with suppress(ChildProcessError):
        while True:
            children.append(os.waitpid(-1, os.WNOHANG)[0])
    json.dump({"outcomes": outcomes, "touched": seen, "children": children}, sys.stdout)


if __name__ == "__main__":
    main()
