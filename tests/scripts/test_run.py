"""`nanscope run`: scripts as they are, run as Python runs them, with their trainings recorded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import nanscope
from nanscope.recording.script import run
from nanscope.values import Verdict
from tests.scripts import programs


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in; the interpreter is put back as it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    main = sys.modules["__main__"]
    yield tmp_path
    sys.modules["__main__"] = main


def script(folder: Path, text: str, name: str = "train.py") -> str:
    """A program in a file of its own."""
    (folder / name).write_text(text, encoding="utf-8")
    return name


def test_a_script_is_run_as_python_runs_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its arguments, its name and its output are its own, and its training is recorded."""
    code, found = run(script(folder, programs.CLASSIFIER), ["-o", "its own"], Path("run.h5"))
    told = capsys.readouterr()
    assert (code, told.err) == (0, "")
    assert told.out.splitlines()[-1] == f"given its own __main__ {Path.cwd() / 'train.py'}"
    assert [(each.name, each.path, each.steps) for each in found] == [("Sequential", Path("run.h5"), 12)]
    assert nanscope.diagnose("run.h5").verdict is Verdict.HEALTHY
    assert len(nanscope.open_run("run.h5")) == 12


def test_a_rate_that_diverges_is_explained(folder: Path) -> None:
    """The origin has the script's own line."""
    run(script(folder, programs.CLASSIFIER), ["--lr", "1e30"], Path("run.h5"))
    diagnosis = nanscope.diagnose("run.h5")
    assert diagnosis.verdict is Verdict.DIVERGED
    assert diagnosis.origin is not None
    assert diagnosis.origin.location is not None
    assert Path(diagnosis.origin.location.file).name == "train.py"
    assert diagnosis.causes[0].id in ("learning-rate-divergence", "bad-learning-rate")


def test_both_models_of_a_gan(folder: Path) -> None:
    """Each has a run file; the one that broke says so, at the step."""
    code, found = run(script(folder, programs.GAN), [], Path("gan.h5"))
    assert code == 0
    assert {each.name for each in found} == {"netG", "netD"}
    paths = {each.name: each.path for each in found}
    assert len(set(paths.values())) == 2
    assert all(path is not None and path.exists() for path in paths.values())
    broken = nanscope.diagnose(str(paths["netG"]))
    assert broken.origin is not None
    assert (broken.origin.step, broken.origin.op) == (9, "log")
    assert [cause.id for cause in broken.causes] == ["domain-error"]


def test_updates_without_an_optimizer(folder: Path) -> None:
    """The word language model steps by hand; what it does to its parameters is seen all the same."""
    _, found = run(script(folder, programs.LANGUAGE_MODEL), [], Path("lm.h5"))
    assert [(each.name, each.steps) for each in found] == [("model", 6)]
    diagnosis = nanscope.diagnose("lm.h5")
    assert diagnosis.verdict is Verdict.SUSPICIOUS
    assert "geometric-growth" in [finding.slug for finding in diagnosis.findings]


def test_a_closure_that_calls_the_model_first(folder: Path) -> None:
    """The model is first called within a step of LBFGS, whose calls of its closure are one step."""
    _, found = run(script(folder, programs.CLOSURE), [], Path("run.h5"))
    assert [(each.name, each.steps) for each in found] == [("model", 4)]


def test_a_script_that_raises(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The traceback is the script's own, the exit code is Python's, and the steps are there."""
    code, found = run(script(folder, programs.RAISES), [], Path("run.h5"))
    told = capsys.readouterr().err
    assert code == 1
    assert "ValueError: after five steps" in told
    assert "nanscope" not in told
    assert found[0].steps == 5


def test_a_script_that_trains_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its exit code is kept, and no file is made."""
    code, found = run(script(folder, programs.NOTHING), ["a", "--b"], Path("run.h5"))
    assert (code, found) == (3, [])
    assert capsys.readouterr().out == "no model here ['a', '--b']\n"
    assert not list(folder.glob("*.h5"))


@pytest.mark.parametrize(("way", "told"), [("raise", "NonFiniteError"), ("stop", "")])
def test_on_nonfinite(way: str, told: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The script ends at the bad step, with a traceback or without one."""
    path = script(folder, programs.CLASSIFIER)
    code, found = run(
        path, ["--lr", "1e30"], Path("run.h5"), on_nonfinite="raise" if way == "raise" else "stop"
    )
    output = capsys.readouterr()
    assert code == 1
    assert (told in output.err) if told else (output.err == "")
    assert found[0].steps < 12
    assert "given" not in output.out


def test_a_module(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`-m package.module` is found from the current folder."""
    (folder / "package").mkdir()
    (folder / "package" / "__init__.py").touch()
    script(folder / "package", programs.CLASSIFIER, "train.py")
    code, found = run("package.train", ["-o", "x"], Path("run.h5"), is_module=True)
    assert (code, found[0].steps) == (0, 12)
    assert "given x __main__" in capsys.readouterr().out


def test_the_command(folder: Path) -> None:
    """With workers that load data: stdout is the script's alone, the answer is on stderr."""
    path = script(folder, programs.CLASSIFIER)
    words = [sys.executable, "-m", "nanscope", "run", "-o", "run.h5", path, "--lr", "1e30", "--workers", "1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 13
    assert "DIVERGED" in done.stderr
    assert done.stderr.splitlines()[-1] == "nanscope replay run.h5"


def test_signals_forks_and_a_closed_stdout(folder: Path) -> None:
    """A child that trains on is not the run; what is printed and how it ends is as without nanscope."""
    path = script(folder, programs.ODD_END)
    ways: tuple[list[str], ...] = ([], ["-m", "nanscope", "run", "-o", "run.h5"])
    commands = [[sys.executable, *words, path] for words in ways]
    alone, watched = (
        subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        for command in commands
    )
    assert (watched.returncode, watched.stdout) == (alone.returncode, alone.stdout)
    assert alone.returncode == -signal.SIGINT
    assert watched.stderr.startswith(alone.stderr)
    assert watched.stderr.splitlines()[-1] == "nanscope replay run.h5"
    assert len(nanscope.open_run(folder / "run.h5")) == 5
    assert all(path.name.startswith("run.fork") for path in folder.glob("run?*.h5"))


def test_no_such_script(folder: Path) -> None:
    """One line with what to do, before torch is loaded."""
    words = [sys.executable, "-m", "nanscope", "run", "nothing.py", "--lr", "1"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 2
    assert done.stderr == "nanscope: nothing.py is no file: name a Python script, or write -m MODULE\n"
