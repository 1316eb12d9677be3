"""Scripts: run one as Python would, with everything that it trains recorded."""

from __future__ import annotations

import builtins
import io
import os
import runpy
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, get_args

from torch import nn

from nanscope.recording.base import OnNonfinite
from nanscope.recording.discovery import Discovery, Found
from nanscope.recording.record import record
from nanscope.recording.recorder import Recorder

STOPPED = 1  # exit code of a script that was stopped at a non-finite value
INTERRUPTED = -signal.SIGINT  # in the way of `subprocess`


def run(
    name: str,
    args: Sequence[str],
    path: Path,
    *,
    is_module: bool = False,
    on_nonfinite: OnNonfinite = "record",
    **options: Any,
) -> tuple[int, list[Found]]:
    """Run a script, or a module, as `python` would, and record every model that is trained in it.

    Args:
        args: its own arguments.
        path: the run file of the first model; of the others the model's name is in it.
        is_module: whether `name` is a module's, as after `python -m`.
        options: more of `nanscope.record`, such as `verify_remedies=`.

    Returns:
        The exit code, or `INTERRUPTED`, and what became of each model; a traceback is on stderr already.
    """
    opened: list[Recorder] = []

    def open_recorder(model: nn.Module) -> Recorder:
        named = path.with_stem(f"{path.stem}-{_name_of(model)}") if opened else path
        opened.append(record(model, None, named, on_nonfinite=on_nonfinite, keep_run="trained", **options))
        return opened[-1]

    discovery = Discovery(open_recorder, name=_name_of)
    code = STOPPED
    try:
        with warnings.catch_warnings():  # of a model that was called and never trained nobody has to hear
            warnings.filterwarnings("ignore", "nanscope: no optimizer step was seen", RuntimeWarning)
            with discovery:
                code = _executed(name, args, is_module=is_module)
    except SystemExit as leaving:
        code = _code(leaving)
    except BaseException as error:  # noqa: BLE001 - as the interpreter does
        code = INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1
        _tell(error)
    return code, [found for found in discovery.found if found.steps or found.trouble]


def _name_of(model: nn.Module) -> str:
    """The script's variable that holds it; its class if none does."""
    held = [name for name, value in list(vars(sys.modules["__main__"]).items()) if value is model]
    return next((name for name in held if not name.startswith("_")), type(model).__name__)


def as_way(word: str) -> OnNonfinite:
    """One of the ways that `record` knows."""
    found: OnNonfinite = next(way for way in get_args(OnNonfinite) if way == word)
    return found


def _executed(name: str, args: Sequence[str], *, is_module: bool) -> int:
    """0, or what the script raised."""
    if is_module:
        sys.argv[:] = [name, *args]
        sys.path[0] = str(Path.cwd())
        runpy.run_module(name, run_name="__main__", alter_sys=True)
        return 0
    sys.argv[:] = [name, *args]
    sys.path[0] = str(Path(name).resolve().parent)
    file = os.path.abspath(name)  # noqa: PTH100 - as the interpreter does: not through links
    with io.open_code(file) as source:
        code = compile(source.read(), file, "exec", dont_inherit=True)
    main = ModuleType("__main__")
    loader = SourceFileLoader("__main__", file)
    main.__dict__.update(
        __file__=file, __builtins__=builtins, __loader__=loader, __spec__=None, __cached__=None
    )
    sys.modules["__main__"] = main  # and it stays: what runs at exit, and other processes, look there
    exec(code, main.__dict__)  # noqa: S102 - this is what it is for
    return 0


def _code(leaving: SystemExit) -> int:
    """What the interpreter makes of `sys.exit(...)`."""
    if leaving.code is None:
        return 0
    if isinstance(leaving.code, int):
        return leaving.code & 0xFF
    print(leaving.code, file=sys.stderr)  # noqa: T201 - as the interpreter does
    return 1


def _tell(error: BaseException) -> None:
    """The traceback that the script would have had by itself."""
    first = _first_of(error.__traceback__, lambda file: file != __file__ and not file.startswith("<frozen"))
    traceback.print_exception(type(error), error, first)


def _first_of(trace: TracebackType | None, is_theirs: Callable[[str], bool]) -> TracebackType | None:
    ours: Any = trace
    while ours is not None and not is_theirs(ours.tb_frame.f_code.co_filename):
        ours = ours.tb_next
    return ours or trace
