"""The command line as a user meets it: real files, exit codes, one line per error.

A process of its own where that matters, else the same command in this one: a process with torch takes seconds
to start.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import nanscope
import nanscope.cli

DIVERGING = ["train", "--batch-size", "1", "--hidden", "64,64", "--lr", "0.4", "--aftermath", "20"]


def run(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder of its own, without a terminal."""
    return subprocess.run(
        [sys.executable, "-m", "nanscope", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "80"} | environment,
    )


Here = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Here:
    """Runs the command in a folder as `run` does, in this process."""
    monkeypatch.setenv("COLUMNS", "80")

    def call(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["nanscope", *words])
        with pytest.raises(SystemExit) as left:
            nanscope.cli.main()
        told = capfd.readouterr()
        return subprocess.CompletedProcess(words, int(left.value.code or 0), told.out, told.err)

    return call


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A folder with a diverged run in it, and what its training printed."""
    folder = tmp_path_factory.mktemp("trained")
    return folder, run(folder, *DIVERGING)


def test_train_tells_the_story(trained: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """Verdict first, class 0 explained, log(0) excluded, the next command last, nothing wider than 80."""
    folder, done = trained
    lines = done.stdout.splitlines()
    assert done.returncode == 0
    assert "DIVERGED" in lines[0]
    assert "index 0" in done.stdout
    assert "learning-rate-divergence" in done.stdout
    assert lines[-1] == "nanscope replay runs/digits-bs1.h5"
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in done.stdout
    recorded = nanscope.open_run(folder / "runs/digits-bs1.h5")
    assert recorded.state == "finished"
    assert recorded.epochs[-1].confusion
    assert all(row[1:] == (0,) * 9 for row in recorded.epochs[-1].confusion)  # argmax of NaN is index 0


def test_diagnose_says_it_again(trained: tuple[Path, subprocess.CompletedProcess[str]], here: Here) -> None:
    """The same text from the file alone, exit code 1; `replay --once` adds the whole run as a heat map."""
    folder, done = trained
    again = run(folder, "diagnose", "runs/digits-bs1.h5")
    assert (again.returncode, again.stdout) == (1, done.stdout)
    for words in (["replay", "runs/digits-bs1.h5", "--once"], ["replay"]):
        again = here(folder, *words)
        assert again.returncode == 1
        before, whole, after = again.stdout.partition("The whole run: ")
        assert whole
        assert done.stdout == before + after[after.index("Why") :]


def test_diagnose_as_json(trained: tuple[Path, subprocess.CompletedProcess[str]], here: Here) -> None:
    """Strict JSON with the verdict and the origin."""
    folder, _ = trained
    done = here(folder, "diagnose", "runs/digits-bs1.h5", "--format", "json")
    told = json.loads(done.stdout, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert (done.returncode, told["verdict"]) == (1, "diverged")
    assert told["origin"]["phase"] in {"forward", "loss", "backward"}


def test_three_cases_side_by_side(tmp_path: Path, here: Here) -> None:
    """Repeated batch sizes train one after the other and end in the comparison."""
    done = run(tmp_path, *DIVERGING, "--batch-size", "32", "--batch-size", "full", "--epochs", "2")
    assert done.returncode == 0
    for word in ("bs=1", "bs=32", "full batch", "diverged", "healthy"):
        assert word in done.stdout
    files = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert files == ["digits-bs1.h5", "digits-bs32.h5", "digits-bsfull.h5"]
    told = done.stdout.splitlines()[-1].split()
    assert told[:2] == ["nanscope", "replay"]
    for words in (["compare", *told[2:]], told[1:]):
        again = here(tmp_path, *words)
        assert (again.returncode, again.stdout) == (1, done.stdout)


def test_a_healthy_run_exits_with_0(tmp_path: Path, here: Here) -> None:
    """Training twice keeps both files; a healthy one is calm and exits with 0."""
    words = ["train", "--hidden", "32", "-o", "mine.h5", "--epochs"]
    assert run(tmp_path, *words, "1").returncode == 0
    second = run(tmp_path, *words, "8")
    assert "mine.h5 exists: recording into mine-2.h5" in second.stderr
    done = here(tmp_path, "diagnose", "mine-2.h5")
    assert (done.returncode, done.stderr) == (0, "")
    assert "HEALTHY" in done.stdout


def test_ctrl_c_leaves_a_readable_file(tmp_path: Path) -> None:
    """An interrupted training says where the record is, and the record says that it was interrupted."""
    words = ["train", "--batch-size", "1", "--lr", "0.001", "--hidden", "16", "--epochs", "100000"]
    with subprocess.Popen(
        [sys.executable, "-m", "nanscope", *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        file = tmp_path / "runs/digits-bs1.h5"
        try:
            while child.poll() is None:
                if file.exists() and len(nanscope.open_run(file)) > 100:
                    child.send_signal(signal.SIGINT)
                    break
            _, told = child.communicate(timeout=60)
        finally:
            child.kill()  # it would train for days
    assert child.returncode == 130
    assert b"nanscope diagnose runs/digits-bs1.h5" in told
    recorded = nanscope.open_run(file)
    assert (recorded.state, len(recorded) > 100) == ("interrupted", True)
    assert "healthy" in nanscope.diagnose(recorded).verdict
    for words in (["diagnose", str(file)], ["replay", "--once", str(file)]):
        assert run(tmp_path, *words).stdout.startswith("▲ INTERRUPTED  healthy until it was interrupted")


def test_without_a_command_it_helps(tmp_path: Path) -> None:
    """Bare `nanscope` prints the commands, readably."""
    done = run(tmp_path)
    assert done.returncode == 0
    assert "diagnose" in done.stdout
    assert done.stdout.count("\n") > 5


WRONG = {
    "no such option": (["train", "--batch", "1"], 2, "See nanscope train --help"),
    "no such command": (["trian"], 2, "No such command"),
    "bad batch size": (["train", "--batch-size", "0"], 2, "give a number from 1"),
    "bad rate": (["train", "--lr", "nan"], 2, "learning rate"),
    "bad width": (["train", "--hidden", "10,x"], 2, "--hidden 1024,1024"),
    "one file, two cases": (
        ["train", "--batch-size", "1", "--batch-size", "2", "-o", "x.h5"],
        2,
        "give a folder",
    ),
    "no folder": (["train", "-o", "file/x.h5"], 2, "choose a folder"),
    "nothing to compare": (["compare", "a.h5"], 2, "name another"),
    "nothing to replay": (["replay"], 2, "nanscope train --batch-size 1"),
    "missing file": (["diagnose", "none.h5"], 3, "none.h5"),
    "foreign file": (["diagnose", "file"], 3, "file"),
    "bad device": (["train", "--device", "teapot"], 2, "teapot"),
}


IN_A_PROCESS = ("no such option", "missing file", "bad device")  # by click, without torch, and with it


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_one_line(name: str, tmp_path: Path, here: Here) -> None:
    """Every mistake: its exit code, one line on stderr that says what to do, nothing on stdout."""
    words, code, said = WRONG[name]
    (tmp_path / "file").write_text("not a run file")
    done = (run if name in IN_A_PROCESS else here)(tmp_path, *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("nanscope: ")
    assert said in done.stderr
