"""`nanscope diagnose RUN --verify`: a run of the experiment is trained again and its remedies are proved."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import nanscope
from nanscope.cli import main
from nanscope.experiment.cases import Case
from nanscope.experiment.data import load_dataset
from nanscope.experiment.loop import train
from nanscope.experiment.progress import Progress
from nanscope.recording.rewind import memory
from tests.rewind.loops import batches, net, recorded, squares

CASE = {"batch_size": 1, "hidden": (8,), "lr": 2.0, "epochs": 1, "aftermath": 5}


@pytest.fixture(autouse=True)
def snapshots_at_the_start_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is executed again begins at step 0, however fast the machine is."""
    monkeypatch.setattr(memory, "SHARE", 1e9)


class Answer(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command line within this process."""

    def run(*words: object) -> Answer:
        monkeypatch.setenv("HDF5_PLUGIN_PRELOAD", "::")  # which `main` sets, so that it is put back
        monkeypatch.setattr(sys, "argv", ["nanscope", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        return Answer(int(str(left.value.code)), *capsys.readouterr())

    return run


def _quiet(_: Progress) -> None:
    """Show nothing."""


def trained(path: Path, **changes: Any) -> Path:
    """A run of the experiment."""
    case = Case(**(CASE | changes))
    outcome = train(case, load_dataset(case), path, _quiet)
    assert outcome.path is not None
    return outcome.path


@pytest.fixture(scope="module")
def diverged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run file of a training that diverged."""
    return trained(tmp_path_factory.mktemp("verified") / "run.h5")


def test_the_outcome_of_each_remedy(command: Any, diverged: Path) -> None:
    """A lower learning rate prevented it, over the steps that are told; the run file stays as it was."""
    before = diverged.read_bytes()
    plain = json.loads(command("diagnose", diverged, "--format", "json").out)
    done = command("diagnose", diverged, "--verify", "--format", "json")
    assert done.code == 1
    told = json.loads(done.out)
    assert diverged.read_bytes() == before
    assert told["origin"]["step"] == plain["origin"]["step"]
    assert {each["outcome"] for each in plain["remedies"]} == {"untried"}
    lower = next(each for each in told["remedies"] if each["id"] == "lower-learning-rate")
    assert lower["outcome"] == "prevented"
    assert lower["steps"] > 1
    assert told["remedies"][0]["outcome"] == "prevented"
    assert "training bs=1 again" in done.err


def test_the_remedy_holds_when_it_is_taken(command: Any, diverged: Path, tmp_path: Path) -> None:
    """Trained from the start with half the rate that is said to prevent it, the run gets past that step."""
    told = json.loads(command("diagnose", diverged, "--verify", "--format", "json").out)
    lower = next(each for each in told["remedies"] if each["id"] == "lower-learning-rate")
    lr = float(lower["change"].removeprefix("lr=").split(",")[0])
    path = trained(tmp_path / "calm.h5", lr=lr / 2)
    origin = nanscope.diagnose(path).origin
    assert origin is None or origin.step > told["origin"]["step"]


def test_as_text(command: Any, diverged: Path) -> None:
    """Outcomes stand beside the remedies, within 80 columns, under the name of the user's file."""
    done = command("diagnose", diverged, "--verify")
    assert done.code == 1
    assert "prevented over" in " ".join(done.out.split())
    assert diverged.name in done.out


def one_line(answer: Answer, code: int) -> str:
    """The message of a command that refused."""
    assert (answer.code, answer.out) == (code, "")
    (line,) = answer.err.splitlines()
    assert line.startswith("nanscope: ")
    return line


def test_a_run_of_another_program(command: Any, tmp_path: Path) -> None:
    """It cannot be trained again from its file: one line with the way out, exit code 2."""
    data = batches(3)
    data[1][0][0] = float("nan")
    recorded(tmp_path / "run.h5", net(), squares, data)
    line = one_line(command("diagnose", tmp_path / "run.h5", "--verify"), 2)
    assert "verify_remedies=True" in line


def test_a_run_that_did_not_diverge(command: Any, tmp_path: Path) -> None:
    """There is nothing to prevent."""
    path = trained(tmp_path / "calm.h5", lr=0.01, batch_size=256)
    assert "nothing to prevent" in one_line(command("diagnose", path, "--verify"), 2)


def test_no_such_file(command: Any, tmp_path: Path) -> None:
    """As without --verify: exit code 3."""
    assert "cannot be read" in one_line(command("diagnose", tmp_path / "none.h5", "--verify"), 3)
