"""The callback in Lightning's own training loop: tiny models, on the processor."""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import nanscope
from nanscope.errors import NonFiniteError, UsageError
from nanscope.values import Verdict

lightning: Any = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")
NanscopeCallback: Any = importlib.import_module("nanscope.integrations.lightning").NanscopeCallback

pytestmark = pytest.mark.filterwarnings("default")  # of its own: few workers, no logger, a short epoch

BAD = 5  # the batch in which a logarithm goes wrong


class Classifier(lightning.LightningModule):  # type: ignore[misc]
    """A model as the tutorials write it."""

    def __init__(self, lr: float = 0.1, *, planted: bool = False) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr, self.planted = lr, planted
        self.net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.net(x)

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        """The loss, with a logarithm of negative numbers in one batch."""
        x, y = batch
        logits = self(x)
        loss = nn.functional.cross_entropy(logits, y)
        if self.planted and index == BAD:
            loss = loss + torch.log(logits - logits.max() - 1).sum() * self.net[0].weight.norm()
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], _index: int) -> None:
        """An evaluation: no step of the training."""
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def batches() -> DataLoader[tuple[Tensor, ...]]:
    """Eight batches of eight."""
    source = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (64,), generator=source)
    return DataLoader(TensorDataset(torch.randn(64, 4, generator=source), labels), batch_size=8)


def fit(model: Any, callback: Any, folder: Path, **options: Any) -> Any:
    """Train for two epochs, or as told; the trainer."""
    settings: dict[str, Any] = {"max_epochs": 2, "logger": False, "enable_checkpointing": False} | options
    trainer = lightning.Trainer(
        accelerator="cpu",
        callbacks=[] if callback is None else [callback],
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    trainer.fit(model, batches(), batches())
    return trainer


def seeded(**options: Any) -> Classifier:
    """The same weights each time."""
    torch.manual_seed(0)
    return Classifier(**options)


def test_a_healthy_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A row per optimizer step, evaluations none; settings are kept, the weights are what they would be."""
    model, bare, callback = seeded(), seeded(), NanscopeCallback()
    fit(bare, None, tmp_path)
    with caplog.at_level(logging.INFO):
        trainer = fit(model, callback, tmp_path)
    assert callback.path == tmp_path / "nanscope.h5"
    run = nanscope.open_run(callback.path)
    assert (len(run), trainer.global_step, run.state) == (16, 16, "finished")
    assert (run.header.config["lr"], run.header.config["max_epochs"]) == (0.1, 2)
    assert nanscope.diagnose(callback.path).verdict is Verdict.HEALTHY
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), bare.parameters(), strict=True))
    assert f"nanscope replay {callback.path}" in caplog.text


def test_the_origin_in_training_step(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Operation and line of a NaN that training_step made; it is said at once, and at the end."""
    callback = NanscopeCallback(tmp_path / "run.h5")
    with caplog.at_level(logging.INFO):
        fit(seeded(planted=True), callback, tmp_path)
    diagnosis = nanscope.diagnose(tmp_path / "run.h5")
    assert diagnosis.verdict is Verdict.DIVERGED
    assert diagnosis.origin is not None
    assert (diagnosis.origin.step, diagnosis.origin.op) == (BAD, "log")
    assert diagnosis.origin.location is not None
    assert Path(diagnosis.origin.location.file).name == Path(__file__).name
    assert diagnosis.origin.location.function == "training_step"
    assert diagnosis.causes[0].id == "domain-error"
    assert f"non-finite value in step {BAD}, loss phase" in caplog.text
    assert f"nanscope diagnose {tmp_path / 'run.h5'}" in caplog.text


def test_a_learning_rate_that_diverges(tmp_path: Path) -> None:
    """The story of a run that nobody planted anything in."""
    callback = NanscopeCallback()
    fit(seeded(lr=1e8), callback, tmp_path)
    assert callback.path is not None
    diagnosis = nanscope.diagnose(callback.path)
    assert diagnosis.verdict is Verdict.DIVERGED
    assert "learning-rate" in diagnosis.causes[0].id


def test_gradient_accumulation(tmp_path: Path) -> None:
    """Two batches are one step, as Lightning counts, and the bad one is found in it."""
    callback = NanscopeCallback()
    trainer = fit(seeded(planted=True), callback, tmp_path, accumulate_grad_batches=2)
    assert callback.path is not None
    assert len(nanscope.open_run(callback.path)) == trainer.global_step == 8
    origin = nanscope.diagnose(callback.path).origin
    assert origin is not None
    assert (origin.step, origin.op) == (BAD // 2, "log")


def test_stop(tmp_path: Path) -> None:
    """Lightning ends the training by itself after the bad step; the weights are those after it."""
    callback = NanscopeCallback(on_nonfinite="stop")
    trainer = fit(seeded(planted=True), callback, tmp_path)
    assert (trainer.should_stop, trainer.global_step) == (True, BAD + 1)
    assert trainer.state.finished


def test_raise(tmp_path: Path) -> None:
    """The error leaves `fit`, the run file is whole, and nothing stays on the model."""
    callback, model = NanscopeCallback(on_nonfinite="raise"), seeded(planted=True)
    with pytest.raises(NonFiniteError, match=f"in step {BAD}"):
        fit(model, callback, tmp_path)
    assert callback.path is not None
    assert nanscope.open_run(callback.path).state == "failed"
    with nanscope.record(model, None, tmp_path / "again.h5") as recorder:
        assert recorder.is_active


def test_the_file_is_where_the_logger_writes(tmp_path: Path) -> None:
    """With a logger it is beside its metrics; a second training gets a name of its own."""
    logger = lightning.loggers.CSVLogger(tmp_path, name="mine", version=3)
    callback = NanscopeCallback()
    fit(seeded(), callback, tmp_path, logger=logger, max_epochs=1)
    first = callback.path
    assert first == tmp_path / "mine" / "version_3" / "nanscope.h5"
    fit(seeded(), callback, tmp_path, logger=logger, max_epochs=1)
    assert callback.path is not None
    assert (callback.path.parent, callback.path == first) == (first.parent, False)
    assert len(nanscope.open_run(callback.path)) == 8


def test_wrong_options_are_told_at_once() -> None:
    """Before anything is trained."""
    with pytest.raises(UsageError, match="on_nonfinite"):
        NanscopeCallback(on_nonfinite="explode")


def test_without_lightning(tmp_path: Path) -> None:
    """One line with the command that helps."""
    for package in ("lightning", "pytorch_lightning"):
        (tmp_path / f"{package}.py").write_text("raise ModuleNotFoundError", encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    words = [sys.executable, "-c", "import nanscope.integrations.lightning"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    expected = "ImportError: lightning is not installed: pip install 'nanscope[lightning]'"
    assert done.stderr.splitlines()[-1] == expected
