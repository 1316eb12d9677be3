"""How a recording begins and ends when the program around it does odd things."""

import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

import nanscope
from nanscope.errors import UsageError
from nanscope.recording.waiting import Waiting

Parts = tuple[nn.Module, torch.optim.Optimizer]


@pytest.fixture
def training() -> Parts:
    """A small model and its optimizer."""
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def step(training: Parts) -> None:
    """One step on fixed data."""
    model, optimizer = training
    optimizer.zero_grad()
    F.cross_entropy(model(torch.ones(2, 4)), torch.tensor([0, 1])).backward()
    optimizer.step()


def test_a_link_to_nowhere_is_a_taken_name(tmp_path: Path, training: Parts) -> None:
    """It gets a number, as any taken name."""
    (tmp_path / "run.h5").symlink_to(tmp_path / "gone.h5")
    with pytest.warns(RuntimeWarning, match=r"recording into .*run-2\.h5"):
        record_steps(tmp_path / "run.h5", training, 3)
    assert len(nanscope.open_run(tmp_path / "run-2.h5")) == 3


def record_steps(path: Path, training: Parts, steps: int) -> None:
    """Record so many steps."""
    with nanscope.record(*training, path):
        for _ in range(steps):
            step(training)


def test_warnings_made_errors_end_no_training(tmp_path: Path, training: Parts) -> None:
    """A taken name, and a scalar beyond float32."""
    (tmp_path / "run.h5").write_bytes(b"taken")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with nanscope.record(*training, tmp_path / "run.h5") as recorder:
            for _ in range(3):
                step(training)
                recorder.log(score=1e300)
    run = nanscope.open_run(tmp_path / "run-2.h5")
    assert run.scalar("score").tolist() == [float("inf")] * 3


@pytest.mark.parametrize("config", [{(1, 2): 3}, {"n": 10**5000}])
def test_a_config_that_is_no_json_is_refused_at_once(training: Parts, config: dict[str, object]) -> None:
    """Not at the end of the training."""
    with pytest.raises(UsageError, match="config cannot be kept as JSON"):
        nanscope.record(*training, "run.h5", config=config)


def test_a_change_of_directory_before_the_first_step(
    tmp_path: Path, training: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is where its name meant when the block was entered."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with nanscope.record(*training, "runs/run.h5") as recorder:
        monkeypatch.chdir(tmp_path / "elsewhere")
        step(training)
        assert recorder.path == Path("runs/run.h5")
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert len(nanscope.open_run(tmp_path / "runs" / "run.h5")) == 1


class SilentError(Exception):
    """An exception whose text cannot be had."""

    def __str__(self) -> str:
        raise ValueError("no text")


def test_the_training_s_exception_is_not_replaced(
    tmp_path: Path, training: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measuring what is left fails, too, as after a device error: the file is closed all the same."""

    def fail(_: Waiting, **__: bool) -> None:
        raise RuntimeError("device-side assert")

    def train() -> None:
        with nanscope.record(*training, tmp_path / "run.h5"):
            step(training)
            monkeypatch.setattr(Waiting, "measure", fail)
            step(training)
            raise SilentError

    with pytest.warns(RuntimeWarning, match="device-side assert"), pytest.raises(SilentError):
        train()
    run = nanscope.open_run(tmp_path / "run.h5")
    assert run.state == "failed"
    assert run.events_of("error")[0]["message"] == "SilentError"


def test_leaving_the_program_calmly_is_no_failure(tmp_path: Path, training: Parts) -> None:
    """`sys.exit(0)` within the block."""

    def train() -> None:
        with nanscope.record(*training, tmp_path / "run.h5"):
            step(training)
            sys.exit(0)

    with pytest.raises(SystemExit):
        train()
    assert nanscope.open_run(tmp_path / "run.h5").state == "finished"


def test_an_interrupt_while_norms_are_taken_loses_no_step(
    tmp_path: Path, training: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the midst of measuring: the steps that waited are measured when the block is left."""
    norms, calls = Waiting._norms, iter([True])

    def interrupted(gauge: Waiting, readings: list[object]) -> object:
        for _ in calls:
            raise KeyboardInterrupt
        return norms(gauge, readings)  # type: ignore[arg-type]

    def train() -> None:
        with nanscope.record(*training, tmp_path / "run.h5") as recorder:
            for _ in range(30):
                step(training)
            monkeypatch.setattr(Waiting, "_norms", interrupted)
            recorder.latest()

    with pytest.raises(KeyboardInterrupt):
        train()
    run = nanscope.open_run(tmp_path / "run.h5")
    assert (run.state, run.steps.tolist()) == ("interrupted", list(range(30)))
    assert run.events_of("recorder-failed") == ()
