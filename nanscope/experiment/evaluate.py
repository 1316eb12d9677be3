"""The test of a classifier: loss, accuracy, macro F1 and confusion matrix over a test part."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn

from nanscope.experiment.metrics import accuracy, confusion_matrix, macro_f1

CHUNK = 4096  # rows at a time, so that a wide model needs little memory


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a test part says about a model; `loss` is the mean cross entropy, NaN where a logit is."""

    loss: float
    accuracy: float
    f1: float
    confusion: tuple[tuple[int, ...], ...]


def evaluate(model: nn.Module, x: Tensor, y: Tensor) -> Evaluation:
    """Tests a model in evaluation mode and without gradients; its mode is given back.

    The prediction is the argmax of the logits, as everywhere. Of a row of NaN that is index 0: what looks
    like a vote for class 0 is none.

    Args:
        model: gives logits of shape (rows, classes).
        x: inputs, shape (rows, ...), at least one.
        y: class numbers, shape (rows,).
    """
    training = model.training
    model.eval()
    try:
        logits = _logits(model, x).cpu()
    finally:
        model.train(training)
    truth = y.cpu()
    counts = confusion_matrix(truth.numpy(), logits.argmax(dim=1).numpy(), logits.shape[1])
    loss = float(F.cross_entropy(logits.double(), truth))
    return Evaluation(loss, accuracy(counts), macro_f1(counts), tuple(map(tuple, counts.tolist())))


@torch.no_grad()
def _logits(model: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([model(x[row : row + CHUNK]) for row in range(0, len(x), CHUNK)])
