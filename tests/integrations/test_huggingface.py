"""The callback in the Trainer of transformers: tiny models made from a config, on the processor."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import nanscope
from nanscope.errors import NonFiniteError, UsageError
from nanscope.values import Verdict

transformers: Any = pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("accelerate", reason="accelerate is not installed, which the Trainer needs")
NanscopeCallback: Any = importlib.import_module("nanscope.integrations.huggingface").NanscopeCallback

pytestmark = pytest.mark.filterwarnings("default")  # of its own: no accelerator to pin memory for

BAD = 3  # the step in which a logarithm goes wrong
SMALL = {
    "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 16,
}  # fmt: skip


class Planted(transformers.Trainer):  # type: ignore[misc]
    """A Trainer with a loss of its own, which takes the logarithm of negative numbers in one step."""

    def compute_loss(
        self, model: Any, inputs: Mapping[str, Tensor], return_outputs: bool = False, **_: Any
    ) -> Any:
        """The loss."""
        outputs = model(**inputs)
        loss = outputs.loss
        if self.state.global_step == BAD:
            logits, weight = outputs.logits, self.model.classifier.weight
            loss = loss + torch.log(logits - logits.max() - 1).sum() * weight.norm()
        return (loss, outputs) if return_outputs else loss


def examples() -> list[dict[str, Tensor]]:
    """Thirty-two sentences of eight words."""
    source = torch.Generator().manual_seed(0)
    return [
        {"input_ids": torch.randint(0, 50, (8,), generator=source), "labels": torch.tensor(i % 2)}
        for i in range(32)
    ]


def train(
    folder: Path, callback: Any, kind: Any = transformers.Trainer, seed: int = 0, **options: Any
) -> Any:
    """Eight steps, or as told; the trainer."""
    torch.manual_seed(seed)
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL))
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), max_steps=8, per_device_train_batch_size=4, report_to=[], use_cpu=True,
        save_strategy="no", disable_tqdm=True, logging_steps=1, **options,
    )  # fmt: skip
    callbacks = [] if callback is None else [callback]
    trainer = kind(model, arguments, train_dataset=examples(), callbacks=callbacks)
    trainer.train()
    return trainer


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the callback logs; the library's logger does not tell others."""
    lines: list[str] = []
    log = importlib.import_module("nanscope.integrations.huggingface")._log
    monkeypatch.setattr(log, "warning", lines.append)
    monkeypatch.setattr(log, "info", lines.append)
    return lines


def test_a_healthy_training(tmp_path: Path, said: list[str]) -> None:
    """A row per optimizer step, the settings, and the weights that there would have been."""
    callback = NanscopeCallback()
    trainer, bare = train(tmp_path, callback), train(tmp_path, None)
    assert callback.path == tmp_path / "nanscope.h5"
    run = nanscope.open_run(callback.path)
    assert (len(run), run.state) == (8, "finished")
    assert (run.header.config["lr"], run.header.config["batch_size"]) == (5e-5, 4)
    assert nanscope.diagnose(callback.path).verdict is Verdict.HEALTHY
    pairs = zip(trainer.model.parameters(), bare.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert [line.splitlines()[-1] for line in said] == [f"nanscope replay {callback.path}"]


def test_the_origin_in_compute_loss(tmp_path: Path, said: list[str]) -> None:
    """Operation and line of a NaN that compute_loss made, and that the Trainer's own log hides it."""
    callback = NanscopeCallback(tmp_path / "run.h5")
    trainer = train(tmp_path, callback, Planted)
    diagnosis = nanscope.diagnose(tmp_path / "run.h5")
    assert diagnosis.verdict is Verdict.DIVERGED
    assert diagnosis.origin is not None
    assert (diagnosis.origin.step, diagnosis.origin.op) == (BAD, "log")
    assert diagnosis.origin.location is not None
    assert Path(diagnosis.origin.location.file).name == Path(__file__).name
    assert diagnosis.origin.location.function == "compute_loss"
    assert diagnosis.causes[0].id == "domain-error"
    assert f"non-finite value in step {BAD}, loss phase" in said[0]
    assert "logging_nan_inf_filter" in said[1]
    assert said[-1].splitlines()[-1] == f"nanscope diagnose {tmp_path / 'run.h5'}"
    assert len(said) == 3
    assert "nan" not in [str(entry.get("loss")) for entry in trainer.state.log_history]


def test_no_word_of_a_filter_that_is_off(tmp_path: Path, said: list[str]) -> None:
    """Then the Trainer's log tells of the NaN itself."""
    train(tmp_path, NanscopeCallback(), Planted, logging_nan_inf_filter=False)
    assert not any("logging_nan_inf_filter" in line for line in said)


def test_gradient_accumulation(tmp_path: Path) -> None:
    """Two batches are one step, as the Trainer counts, and the bad one is found in it."""
    callback = NanscopeCallback()
    train(tmp_path, callback, Planted, gradient_accumulation_steps=2)
    assert callback.path is not None
    assert len(nanscope.open_run(callback.path)) == 8
    origin = nanscope.diagnose(callback.path).origin
    assert origin is not None
    assert (origin.step, origin.op) == (BAD, "log")


def test_bfloat16(tmp_path: Path) -> None:
    """Under autocast, with a learning rate that cannot go well."""
    callback = NanscopeCallback()
    train(tmp_path, callback, bf16=True, learning_rate=1e20, max_grad_norm=0.0)
    diagnosis = nanscope.diagnose(callback.path)
    assert diagnosis.verdict is Verdict.DIVERGED
    assert diagnosis.origin is not None


def test_stop(tmp_path: Path, said: list[str]) -> None:
    """The Trainer ends the training by itself after the bad step."""
    callback = NanscopeCallback(on_nonfinite="stop")
    trainer = train(tmp_path, callback, Planted)
    assert trainer.state.global_step == BAD + 1
    assert nanscope.open_run(callback.path).state == "finished"
    assert "non-finite" in said[0]


def test_raise(tmp_path: Path) -> None:
    """The error leaves `train` and the run file is whole."""
    callback = NanscopeCallback(on_nonfinite="raise")
    with pytest.raises(NonFiniteError, match=f"in step {BAD}"):
        train(tmp_path, callback, Planted)
    assert callback.path is not None
    run = nanscope.open_run(callback.path)
    assert (run.state, len(run)) == ("failed", BAD + 1)


def test_a_training_that_raised_is_closed_by_the_next(tmp_path: Path) -> None:
    """The Trainer tells no callback of it; the run says that it failed."""

    class Failing(Planted):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            if self.state.global_step == 2:
                raise ValueError("no more data")
            return super().compute_loss(*args, **kwargs)

    callback = NanscopeCallback()
    with pytest.raises(ValueError, match="no more data"):
        train(tmp_path, callback, Failing)
    first = callback.path
    train(tmp_path, callback)
    assert (first, callback.path == first) == (tmp_path / "nanscope.h5", False)
    assert nanscope.open_run(first).state == "failed"
    assert nanscope.open_run(callback.path).state == "finished"


def test_wrong_options_are_told_at_once() -> None:
    """Before anything is trained."""
    with pytest.raises(UsageError, match="on_nonfinite"):
        NanscopeCallback(on_nonfinite="explode")


def test_without_transformers(tmp_path: Path) -> None:
    """One line with the command that helps."""
    (tmp_path / "transformers.py").write_text("raise ModuleNotFoundError", encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    words = [sys.executable, "-c", "import nanscope.integrations.huggingface"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    expected = "ImportError: transformers is not installed: pip install 'nanscope[huggingface]'"
    assert done.stderr.splitlines()[-1] == expected
