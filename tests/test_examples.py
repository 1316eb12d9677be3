"""Every example runs as a user would run it, leaves run files and ends with the right verdict."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import nanscope
from nanscope.values import Verdict

EXAMPLES = Path(__file__).parents[1] / "examples"


def _run(name: str, *arguments: str, folder: Path) -> list[str]:
    """The lines that an example prints; warnings are errors there too."""
    command = [sys.executable, "-W", "error::RuntimeWarning", EXAMPLES / name, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def _cause(path: Path) -> tuple[str | None, str]:
    """The operation and the first cause in a run file."""
    diagnosis = nanscope.diagnose(path)
    assert diagnosis.origin is not None
    return diagnosis.origin.op, diagnosis.causes[0].id


def test_every_example_is_tested() -> None:
    """A script that is added to the folder needs a test here."""
    tests = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {path.stem for path in EXAMPLES.glob("*.py")} <= tests


def test_batch_size_story(tmp_path: Path) -> None:
    """Batch sizes 1024 and 32 are well after a few steps; batch size 1 diverges."""
    lines = _run("batch_size_story.py", "--steps", "40", "--lr", "1", "--out", "runs", folder=tmp_path)
    assert [line.partition(":")[0] for line in lines] == [f"batch size {size}" for size in (1024, 32, 1)]
    verdicts = [nanscope.diagnose(tmp_path / "runs" / f"story-bs{size}.h5").verdict for size in (1024, 1)]
    assert verdicts == [Verdict.HEALTHY, Verdict.DIVERGED]


def test_transformer(tmp_path: Path) -> None:
    """The transformer learns, and a healthy run gets a healthy verdict."""
    (line,) = _run("transformer.py", "--steps", "30", "--out", "run.h5", folder=tmp_path)
    loss = nanscope.open_run(tmp_path / "run.h5").scalar("loss")
    diagnosis = nanscope.diagnose(tmp_path / "run.h5")
    assert loss[-1] < loss[0] / 1.2
    assert diagnosis.verdict is Verdict.HEALTHY, diagnosis.findings
    assert line == diagnosis.summary


def test_plain_script(tmp_path: Path) -> None:
    """The script prints what it prints by itself; nanscope says on stderr that the model has collapsed."""
    script = [EXAMPLES / "plain_script.py", "--lr", "20", "--batch-size", "64"]
    alone = _run(*map(str, script), folder=tmp_path)
    command = [sys.executable, "-m", "nanscope", "run", "-o", "run.h5", *script]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout.splitlines()) == (0, alone)
    assert "COLLAPSED" in done.stderr
    assert nanscope.diagnose(tmp_path / "run.h5").verdict is Verdict.COLLAPSED


def test_lightning_run(tmp_path: Path) -> None:
    """The variance becomes negative, and its logarithm NaN."""
    pytest.importorskip("lightning")
    _run("lightning_run.py", "--out", "run.h5", folder=tmp_path)
    assert _cause(tmp_path / "run.h5") == ("log", "domain-error")


def test_huggingface_run(tmp_path: Path) -> None:
    """A sentence without words: zero divided by zero."""
    pytest.importorskip("accelerate")
    pytest.importorskip("transformers")
    _run("huggingface_run.py", "--out", "out", folder=tmp_path)
    assert _cause(tmp_path / "out" / "nanscope.h5") == ("div", "division-by-zero")


def test_tensorboard_export(tmp_path: Path) -> None:
    """The folder holds an event file, and the run says why the line was not found."""
    pytest.importorskip("tensorboard")
    _run("tensorboard_export.py", "--out", "logs", folder=tmp_path)
    assert len(list((tmp_path / "logs").rglob("events.*"))) == 1
    assert nanscope.diagnose(tmp_path / "logs.h5").verdict is Verdict.DIVERGED
