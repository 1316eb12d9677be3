"""What each column of `overhead.py` finds: six small trainings, five with a planted failure.

Cheap and blind is easy. Each training goes wrong in a known step; what counts is the step in which a rival
first says something from then on, in its own run of that training, or that its diagnosis of the run names.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

import nanscope
from nanscope.values import Severity
from tests.benchmarks.overhead_models import Training
from tests.benchmarks.overhead_rivals import RECORDED, RIVALS, Bare, Recorded, installed

INPUTS, CLASSES, ROWS = 8, 4, 32
PLANTED, COLLAPSED = 20, 150  # steps
STEPS = 40
LONG = 500  # steps that show a collapse: one batch of few samples proves nothing


@dataclass(frozen=True)
class Failure:
    """A training and what is wrong with it.

    Attributes:
        step: in which it goes wrong; None if nothing does.
        within: steps after it in which naming it is still right.
        steps: to train.
    """

    name: str
    build: Callable[[], Training]
    step: int | None = PLANTED
    within: int = 0
    steps: int = STEPS


@dataclass(frozen=True)
class Answer:
    """What somebody made of a failure.

    Attributes:
        judged: `right`, `late`, `wrong` or `silent`; `quiet` or `false alarm` where nothing is wrong.
        step: that was named, None in silence.
        early: things said before anything was wrong.
    """

    judged: str
    step: int | None = None
    words: str = ""
    early: int = 0

    def __str__(self) -> str:
        step = "" if self.step is None else f" ({self.step})"
        return f"{self.judged}{step}" + (f", {self.early} false before" if self.early else "")


def judge(failure: Failure, said: Sequence[tuple[int, str]]) -> Answer:
    """By the first thing said once something was wrong; what was said before is counted."""
    if failure.step is None:
        return Answer("false alarm", *said[0]) if said else Answer("quiet")
    rest = [(step, words) for step, words in said if step >= failure.step]
    early = len(said) - len(rest)
    if rest:
        judged = "right" if rest[0][0] <= failure.step + failure.within else "late"
        return Answer(judged, *rest[0], early)
    return Answer("wrong", *said[-1]) if said else Answer("silent")


def batch(step: int) -> tuple[Tensor, Tensor]:
    """Samples around the mean of their class, in [0, 1]; the same for a step in every run."""
    generator = torch.Generator().manual_seed(1000 + step)
    y = torch.randint(CLASSES, (ROWS,), generator=generator)
    means = torch.rand(CLASSES, INPUTS, generator=torch.Generator().manual_seed(1))
    return (means[y] + 0.1 * torch.randn(ROWS, INPUTS, generator=generator)).clamp(0, 1), y


def mlp() -> nn.Sequential:
    """Two layers and a ReLU."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(INPUTS, 32), nn.ReLU(), nn.Linear(32, CLASSES))


def sgd(model: nn.Module, loss: Callable[[int], Tensor]) -> Training:
    """Trained with plain SGD."""
    return Training(model, torch.optim.SGD(model.parameters(), 0.1), loss)


class Square(nn.Module):
    """An activation that overflows early."""

    def forward(self, x: Tensor) -> Tensor:
        """Element by element."""
        return x * x


def forward_overflow() -> Training:
    """A batch that is finite and so large that its squares are not."""
    model = mlp()
    model[1] = Square()

    def loss(step: int) -> Tensor:
        x, y = batch(step)
        return F.cross_entropy(model(x * 1e22 if step == PLANTED else x), y)

    return sgd(model, loss)


def log_of_zero() -> Training:
    """A cross-entropy by hand, and a batch that makes the model so sure that a probability is 0."""
    model = mlp().append(nn.Softmax(1))

    def loss(step: int) -> Tensor:
        x, y = batch(step)
        odds: Tensor = model(x * 1e5 if step == PLANTED else x)
        return -torch.log(odds.gather(1, y[:, None])).mean()

    return sgd(model, loss)


class Helped(nn.Module):
    """A classifier with a second head."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.aside = mlp(), nn.Linear(INPUTS, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, and in the last column what the second head says."""
        return torch.cat((self.main(x), self.aside(x)), 1)


def update_only() -> Training:
    """A second loss is switched on with weight 0, and its Adam has no epsilon: 0 / 0 in the update."""
    model = Helped()
    model.aside.requires_grad_(requires_grad=False)

    def loss(step: int) -> Tensor:
        if step == PLANTED:
            model.aside.requires_grad_()
        x, y = batch(step)
        answers: Tensor = model(x)
        return F.cross_entropy(answers[:, :CLASSES], y) + 0.0 * answers[:, CLASSES].sum()

    groups: list[dict[str, Any]] = [
        {"params": model.main.parameters()},
        {"params": model.aside.parameters(), "eps": 0.0},
    ]
    return Training(model, torch.optim.Adam(groups, 1e-3), loss)


def backward_only() -> Training:
    """A penalty on the length of hidden vectors, by `sqrt`, and a sample whose vector is 0."""
    torch.manual_seed(0)
    body = nn.Linear(INPUTS, 32, bias=False)
    model = nn.Sequential(body, nn.Linear(32, CLASSES))

    def loss(step: int) -> Tensor:
        x, y = batch(step)
        if step == PLANTED:
            x[3] = 0
        length = (x @ body.weight.T).square().sum(1).sqrt()
        return F.cross_entropy(model(x), y) + 1e-3 * length.mean()

    return sgd(model, loss)


def collapse() -> Training:
    """A batch that somebody forgot to divide by 255: the ReLUs die, the loss stays finite."""
    torch.manual_seed(0)
    hidden = nn.Linear(16, 16)
    model = nn.Sequential(nn.Linear(INPUTS, 16), nn.ReLU(), hidden, nn.ReLU(), nn.Linear(16, CLASSES))

    def loss(step: int) -> Tensor:
        x, y = batch(step)
        return F.cross_entropy(model(x * 255 if step == COLLAPSED else x), y)

    return sgd(model, loss)


class Scores(nn.Module):
    """Inner products, of which some are -inf by design, as in a causal attention."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones(INPUTS, INPUTS).triu(1).bool())

    def forward(self, tokens: Tensor) -> Tensor:
        """Shape (rows, tokens, width) to (rows, tokens, tokens)."""
        return (tokens @ tokens.mT).masked_fill(self.mask, -math.inf)


class Masked(nn.Module):
    """A layer of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.scores = nn.Linear(1, 16), Scores()
        self.attention, self.out = nn.Softmax(-1), nn.Linear(16 * INPUTS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        tokens = self.embed(x[..., None])
        logits: Tensor = self.out((self.attention(self.scores(tokens)) @ tokens).flatten(1))
        return logits


def masked() -> Training:
    """Healthy."""
    torch.manual_seed(0)
    model = Masked()

    def loss(step: int) -> Tensor:
        x, y = batch(step)
        return F.cross_entropy(model(x), y)

    return sgd(model, loss)


FAILURES = (
    Failure("overflow in the forward pass", forward_overflow),
    Failure("log(0) in the loss", log_of_zero),
    Failure("NaN in the update only", update_only),
    Failure("NaN in the backward pass only", backward_only),
    Failure("collapse to one class", collapse, COLLAPSED, within=50, steps=LONG),
    Failure("healthy, with -inf masks", masked, None, steps=LONG),
)


def answer(failure: Failure, rival: type[Bare]) -> Answer:
    """What a rival says in its own run of a training."""
    with tempfile.TemporaryDirectory() as folder:
        watching = rival(failure.build(), Path(folder))
        watching.on()
        try:
            for _ in range(failure.steps):
                watching.step()
        except (RuntimeError, ValueError) as error:  # some say it by ending the training
            watching.say(str(error))
        finally:
            watching.off()
            watching.close()
        said = diagnosed(watching.path) if isinstance(watching, Recorded) else watching.said
    return judge(failure, said)


def diagnosed(path: Path) -> list[tuple[int, str]]:
    """What `nanscope.diagnose` says: the origin, or else the findings that are more than notes."""
    diagnosis = nanscope.diagnose(path)
    if diagnosis.origin is not None:
        return [(diagnosis.origin.step, f"{diagnosis.origin.phase}: {diagnosis.summary}")]
    said = [each for each in diagnosis.findings if each.severity > Severity.NOTE]
    return sorted((each.step, f"{diagnosis.verdict}: {each.message}") for each in said)


def watchers() -> dict[str, type[Bare]]:
    """Everybody who is installed, nanscope first."""
    return {RECORDED: Recorded} | {name: rival for name, rival in RIVALS.items() if installed(rival)}
