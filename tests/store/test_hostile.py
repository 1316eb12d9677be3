"""Files made to do harm: each is refused in a sentence that names the reason, and leads nowhere else."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.store.crafts import CRAFTS, SECRET, build, sound
from tests.store.raw_crafts import RAW_CRAFTS, build_raw

WORDS = {name: words for name, (_, words) in (CRAFTS | RAW_CRAFTS).items()}
BY_A_FRESH_INTERPRETER = ("external link", "virtual dataset", "unknown filter", "repeated text", "text")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the secret, a folder of plug-ins, a sound file and every crafted one."""
    folder = tmp_path_factory.mktemp("hostile")
    sound(folder / "sound.h5")
    with h5py.File(folder / SECRET, "w") as file:
        file["x"] = np.arange(10, dtype="f4")
    (folder / "plugins").mkdir()
    (folder / "plugins" / "libfilter.so").write_bytes(b"no library")
    for name in CRAFTS:
        build(name, folder)
    for name in RAW_CRAFTS:
        build_raw(name, folder)
    return folder


def opened(folder: Path, *options: str, before: tuple[str, ...] = (), only: tuple[str, ...] = ()) -> Any:
    """What the opener says of the crafted files, all of them or only some."""
    names = [f"{name.replace(' ', '-')}.h5" for name in only or ("sound", *WORDS)]
    program = [*before, sys.executable, "-m", "tests.store.opener", *options, *names]
    root = str(Path(__file__).parents[2])
    environment = {"PYTHONPATH": root, "PATH": "/usr/bin", "HDF5_PLUGIN_PATH": str(folder / "plugins")}
    done = subprocess.run(program, cwd=folder, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def report(folder: Path) -> Any:
    """What the opener says of all of them."""
    return opened(folder)


@pytest.mark.parametrize("name", WORDS)
def test_a_crafted_file_is_refused(report: Any, name: str) -> None:
    """In one sentence that names the reason, and with what to do."""
    file = f"{name.replace(' ', '-')}.h5"
    said = report["outcomes"][file]
    assert re.search(WORDS[name], said), said
    assert said.startswith(file)
    assert said.isprintable()
    assert len(said) < 400
    assert re.search(r": (do not trust this file; ask|copy it again from|give the name of a run file)", said)


def test_the_file_that_they_were_made_of_opens(report: Any) -> None:
    """So it is the crafting that is refused."""
    assert report["outcomes"]["sound.h5"] == "opened"


def test_no_child_is_left(report: Any) -> None:
    """Neither running nor as a zombie."""
    assert report["children"] == []


def test_nothing_else_is_touched(report: Any, folder: Path) -> None:
    """Python asks for the files themselves, the program's own code, the null device: nothing else."""
    files = {f"open {name}" for name in report["outcomes"]}
    expected = re.compile(
        r"import |open (/dev/null|/proc/self/\w+|.*\.py[co]?|\d+)$|os\.(listdir|scandir) /proc"
    )
    others = [item for item in report["touched"] if item not in files and not expected.match(item)]
    assert others == []
    assert not any(SECRET in item or str(folder / "plugins") in item for item in report["touched"])


@pytest.fixture(scope="module")
def traced() -> tuple[str, ...]:
    """The command that writes every system call with a file's name into `calls.txt`."""
    command = ("strace", "-f", "-e", "trace=%file", "-o", "calls.txt")
    if shutil.which("strace") is None or subprocess.run([*command[:4], "true"], check=False).returncode:
        pytest.skip("no strace, or no right to use it")
    return command


@pytest.mark.parametrize("options", [(), ("--threads",)])
def test_no_other_file_is_opened_by_any_library(
    folder: Path, traced: tuple[str, ...], options: tuple[str, ...]
) -> None:
    """As the kernel sees it, libhdf5 included, in the program and in its children."""
    report = opened(folder, *options, before=traced, only=BY_A_FRESH_INTERPRETER if options else ())
    calls = (folder / "calls.txt").read_text("utf-8", "replace")
    assert SECRET not in calls
    assert "plugins" not in calls
    opens = re.findall(r'openat\(AT_FDCWD, "([^"/]+\.h5)", ([A-Z_|]+)', calls)
    assert sorted(opens) == sorted((name, "O_RDONLY|O_NONBLOCK|O_CLOEXEC") for name in report["outcomes"])


def test_plain_h5py_does_touch_them(folder: Path, traced: tuple[str, ...]) -> None:
    """What the test above looks for is there to be seen: h5py follows the link and looks for the plug-in."""
    program = (
        "import h5py\n"
        "h5py.File('external-link.h5')['extra']\n"
        "try: h5py.File('unknown-filter.h5')['extra'][:]\n"
        "except OSError: pass\n"
    )
    environment = {"PATH": "/usr/bin", "HDF5_PLUGIN_PATH": str(folder / "plugins")}
    command = [*traced, sys.executable, "-c", program]
    subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)
    calls = (folder / "calls.txt").read_text("utf-8", "replace")
    assert SECRET in calls
    assert "plugins" in calls


def test_a_fresh_interpreter_says_the_same(folder: Path, report: Any) -> None:
    """Where the program has other threads, so that it cannot be copied."""
    found = opened(folder, "--threads", only=BY_A_FRESH_INTERPRETER)
    assert found["outcomes"] == {name: report["outcomes"][name] for name in found["outcomes"]}
    assert found["children"] == []
