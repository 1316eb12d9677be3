"""The training job: an ordinary PyTorch loop over data in memory, recorded from first step to last."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor

import nanscope
from nanscope.errors import UsageError
from nanscope.experiment.cases import Case
from nanscope.experiment.data import Dataset
from nanscope.experiment.evaluate import evaluate
from nanscope.experiment.model import build_model, build_optimizer
from nanscope.experiment.progress import OnProgress, Pace, Progress
from nanscope.recording import drawn
from nanscope.values import Epoch

if TYPE_CHECKING:
    from nanscope.recording.ledger import Trouble
    from nanscope.recording.recorder import Recorder

RECENT = 256  # samples behind the training accuracy of a progress line


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a training.

    Attributes:
        path: the run file; None when it could not be written.
        steps: completed steps.
        epochs: the evaluations, oldest first.
        interrupted: whether Ctrl-C ended it.
    """

    path: Path | None
    steps: int
    epochs: tuple[Epoch, ...]
    interrupted: bool


def train(
    case: Case,
    dataset: Dataset,
    path: Path,
    on_progress: OnProgress | None = None,
    *,
    keep_batch: bool = True,
    verify: bool = False,
) -> Outcome:
    """Trains a case and records every step.

    After the first non-finite value it goes on for `case.aftermath` steps, evaluates and stops. Ctrl-C stops
    it between two instructions: nothing more is evaluated, and the run file holds what was completed.

    Args:
        case: what to train and how.
        dataset: what `load_dataset(case)` gave.
        path: where the run file shall be; a taken name gets a number.
        keep_batch: whether the batch of a bad step is kept in the run file.
        verify: whether remedies are tried on the steps before a bad one.
        on_progress: told where the training stands, about ten times a second.

    Raises:
        UsageError: the device of the case is not here.
    """
    training = Training(case, dataset, on_progress)
    recording = nanscope.record(
        training.model,
        training.optimizer,
        path,
        config=case.config(dataset),
        capacity=training.total,
        keep_batch=keep_batch,
        verify_remedies=verify,
    )
    interrupted = False
    try:
        with recording as recorder:
            training.run(recorder)
    except KeyboardInterrupt:
        interrupted = True
    return Outcome(recording.path, training.step, tuple(training.epochs), interrupted)


class Training:
    """A model, its optimizer and its data on one device, and how far they have come.

    The seed decides the initial weights and, from a generator of its own, one permutation of the training
    part per epoch; both are drawn on the CPU. Nothing else is random.
    """

    def __init__(self, case: Case, dataset: Dataset, on_progress: OnProgress | None = None) -> None:
        device = _device(case.device)
        self.case = case
        self.model = build_model(case, dataset.train_x.shape[1], dataset.classes)
        self.optimizer = build_optimizer(case, self.model)
        self.total = case.epochs * case.updates(len(dataset.train_y))
        self.step = 0
        self.epochs: list[Epoch] = []
        self._x, self._y = dataset.train_x.to(device), dataset.train_y.to(device)
        self._dataset = f"{dataset.name} train"
        self._test_x, self._test_y = dataset.test_x.to(device), dataset.test_y.to(device)
        self._rows = case.rows(len(dataset.train_y))
        self._shuffler = torch.Generator().manual_seed(case.seed)
        self._recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=max(1, RECENT // self._rows))
        self._on_progress = on_progress
        self._pace = Pace()

    def run(self, recorder: Recorder) -> None:
        """All epochs, or as far as the aftermath of the first non-finite value reaches."""
        for epoch in range(1, self.case.epochs + 1):
            self._run_epoch(epoch, recorder)
            if self._is_over(recorder):
                break
        self._tell(len(self.epochs), recorder)

    def _run_epoch(self, epoch: int, recorder: Recorder) -> None:
        begin, first = time.perf_counter(), self.step
        x, y = self._shuffled()
        for row in range(0, len(y), self._rows):
            self._update(x[row : row + self._rows], y[row : row + self._rows])
            if self._pace.due():
                self._tell(epoch, recorder)
            if self._is_over(recorder):
                break
        seconds = self._elapsed(begin)
        tested = evaluate(self.model, self._test_x, self._test_y)
        self.epochs.append(Epoch(epoch, self.step, self.step - first, seconds, **asdict(tested)))
        recorder.log_epoch(self.epochs[-1])

    def _shuffled(self) -> tuple[Tensor, Tensor]:
        """The training part in a new order: one copy per epoch makes every batch a plain slice."""
        order = torch.randperm(len(self._y), generator=self._shuffler).to(self._y.device)
        x, y = self._x.index_select(0, order), self._y.index_select(0, order)
        drawn.note(x, order, self._dataset)
        return x, y

    def _update(self, x: Tensor, y: Tensor) -> None:
        self.optimizer.zero_grad()
        logits = self.model(x)
        F.cross_entropy(logits, y).backward()  # type: ignore[no-untyped-call] # PyTorch leaves it so
        self.optimizer.step()
        self.step += 1
        self._recent.append((logits.detach(), y))

    def _is_over(self, recorder: Recorder) -> bool:
        trouble = recorder.trouble
        return trouble is not None and self.step > trouble.step + self.case.aftermath

    def _elapsed(self, begin: float) -> float:
        """Seconds of finished work: a GPU's queue is waited for."""
        if self._y.device.type != "cpu":
            torch.accelerator.synchronize(self._y.device)
        return time.perf_counter() - begin

    def _tell(self, epoch: int, recorder: Recorder) -> None:
        if self._on_progress is not None:
            self._on_progress(self._progress(epoch, recorder))

    def _progress(self, epoch: int, recorder: Recorder) -> Progress:
        latest, trouble = recorder.latest(), recorder.trouble
        return Progress(
            epoch=epoch,
            epochs=self.case.epochs,
            step=self.step,
            total=self.total,
            loss=math.nan if latest is None else latest.loss,
            accuracy=self._training_accuracy(),
            worst="" if latest is None or latest.worst is None else str(latest.worst),
            worst_l2=math.nan if latest is None else latest.worst_l2,
            trouble=None if trouble is None else _in_words(trouble),
            evaluation=self.epochs[-1] if self.epochs else None,
        )

    def _training_accuracy(self) -> float:
        hits = torch.cat([logits.argmax(dim=1) == y for logits, y in self._recent])
        return float(hits.float().mean())


def _in_words(trouble: Trouble) -> str:
    return f"step {trouble.step}, {trouble.phase}, {'loss' if trouble.site is None else trouble.site}"


def _device(name: str) -> torch.device:
    """A device that is here.

    Raises:
        UsageError: it is not, or the word means none.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = str(error).partition("\n")[0]
        raise UsageError(
            f"device {name!r} cannot be used ({why})", "leave it out to train on the CPU"
        ) from None
    return device
