"""Opening a run file inside programs of every sort: what the child does is not seen in the user's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.store.crafts import sound

ROOT = Path(__file__).parents[2]
START = """
import atexit, os, signal, sys, threading
from nanscope.store.reader import open_run
def alone(): return open_run(sys.argv[1]).state
def among_threads():
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()
    try: return open_run(sys.argv[1]).state
    finally: release.set(); thread.join()
"""
WAYS = ("alone", "among_threads")


def output(tmp_path: Path, program: str, cwd: Path | None = None) -> str:
    """What a program prints; it ends well and complains of nothing, warnings included."""
    sound(tmp_path / "run.h5")
    command = [sys.executable, "-W", "error", "-c", START + program, str(tmp_path / "run.h5")]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("way", WAYS)
def test_what_waits_to_be_printed_is_printed_once(tmp_path: Path, way: str) -> None:
    """Neither the program's buffers nor its exit handlers are carried out by the child."""
    program = f"sys.stdout.write('once '); atexit.register(print, 'at exit'); sys.stdout.write({way}() + ' ')"
    assert output(tmp_path, program) == "once finished at exit\n"


@pytest.mark.parametrize("way", WAYS)
def test_without_standard_streams(tmp_path: Path, way: str) -> None:
    """A service that has closed all three: the file and the pipe get their numbers."""
    program = f"kept = os.dup(1); [os.close(n) for n in (0, 1, 2)]; os.write(kept, {way}().encode())"
    assert output(tmp_path, program) == "finished"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("handler", ["signal.SIG_IGN", "lambda *_: os.waitpid(-1, os.WNOHANG)"])
def test_where_others_reap_children(tmp_path: Path, way: str, handler: str) -> None:
    """A program whose children are reaped by the system, or by a handler of its own."""
    assert output(tmp_path, f"signal.signal(signal.SIGCHLD, {handler}); print({way}())") == "finished\n"


@pytest.mark.parametrize("way", WAYS)
def test_in_a_folder_with_traps(tmp_path: Path, way: str) -> None:
    """No module of the folder that the program happens to be in is imported."""
    for name in ("h5py", "numpy", "json", "nanscope", "zlib", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text("import os; os.write(2, b'trap'); os._exit(3)")
    program = f"os.chdir({str(tmp_path)!r}); sys.path.insert(0, ''); print({way}())"
    assert output(tmp_path, program, cwd=ROOT) == "finished\n"


def test_in_a_thread_of_its_own(tmp_path: Path) -> None:
    """As a screen opens its runs; and many threads at once."""
    program = """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(4) as pool:
    print(set(pool.map(lambda _: alone(), range(8))))
"""
    assert output(tmp_path, program) == "{'finished'}\n"


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_left(tmp_path: Path, way: str) -> None:
    """After many openings: the same descriptors, handlers, signal mask, filters of warnings, environment."""
    program = f"""
import warnings
from nanscope.store.guard import memo
def all_of_it():
    files = sorted(os.listdir('/proc/self/fd'))
    handlers = [signal.getsignal(n) for n in signal.valid_signals()]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    return files, handlers, mask, list(warnings.filters), dict(os.environ)
{way}()
before = all_of_it()
for _ in range(3):
    memo._known.clear()
    {way}()
print(all_of_it() == before)
"""
    assert output(tmp_path, program) == "True\n"


def test_the_plug_ins_of_the_program_are_its_own(tmp_path: Path) -> None:
    """A training may read its data through filters that HDF5 loads: opening a run does not turn that off."""
    program = """
from h5py import h5pl
before = [h5pl.get(i) for i in range(h5pl.size())]
alone(), among_threads()
print(bool(before), before == [h5pl.get(i) for i in range(h5pl.size())], 'HDF5_PLUGIN_PRELOAD' in os.environ)
"""
    assert output(tmp_path, program) == "True True False\n"


def test_the_fresh_interpreter_brings_no_torch(tmp_path: Path) -> None:
    """What looks at a file needs h5py and numpy only."""
    program = """
import subprocess
from nanscope.store.guard import children
code = children._PROGRAM.partition('serve()')[0] + 'print("torch" in sys.modules, "numpy" in sys.modules)'
path = [entry for entry in sys.path if entry]
print(subprocess.run([sys.executable, '-I', '-S', '-c', code, *path], capture_output=True, text=True).stdout)
"""
    assert output(tmp_path, program) == "False True\n\n"
