"""Faults in masks and attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.faults.fault import Watch, fault
from tests.faults.loops import Attention, Reader, fit, sentences
from tests.faults.parts import mlp

FAMILY = "masking and attention"


@fault(
    FAMILY,
    step=6,
    phase="forward",
    module="attention",
    op="softmax",
    sample=2,
    cause="fully-masked-softmax",
    source="https://github.com/pytorch/pytorch/issues/103749",
)
def empty_sentence(watch: Watch) -> None:
    """One sentence of the seventh batch is padding from its first word on: no key is left to attend to."""
    torch.manual_seed(0)
    model = Reader(Attention(6), 6, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    batches = sentences(10)
    batches[6][1][2] = True
    fit(watch, model, optimizer, batches, functional.cross_entropy)


class TorchAttention(nn.Module):
    """`nn.MultiheadAttention` with the padding as its key mask."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = nn.MultiheadAttention(width, 2, batch_first=True)

    def forward(self, x: Tensor, blocked: Tensor) -> Tensor:
        """Shape (batch, time, width)."""
        attended: Tensor = self.heads(x, x, x, key_padding_mask=blocked[:, 0])[0]
        return attended


@fault(
    FAMILY,
    step=4,
    phase="forward",
    module="attention.heads",
    op="softmax",
    sample=7,
    cause="fully-masked-softmax",
    source="https://github.com/pytorch/pytorch/issues/41508",
)
def multihead_key_padding(watch: Watch) -> None:
    """`nn.MultiheadAttention` is given a key padding mask that is True throughout for the last row."""
    torch.manual_seed(1)
    model = Reader(TorchAttention(6), 6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = sentences(9)
    batches[4][1][7] = True
    fit(watch, model, optimizer, batches, functional.cross_entropy)


@fault(
    FAMILY,
    step=0,
    phase="forward",
    module="attention",
    op="softmax",
    cause="fully-masked-softmax",
    source="https://github.com/pytorch/pytorch/issues/41508",
)
def causal_mask_off_by_one(watch: Watch) -> None:
    """The causal mask blocks the diagonal too, so that the first position sees nothing, in every sample."""
    torch.manual_seed(2)
    model = Reader(Attention(6), 6, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    causal = torch.ones(5, 5).triu(diagonal=0).bool()
    batches = [(x, causal, y) for x, _, y in sentences(6)]
    fit(watch, model, optimizer, batches, functional.cross_entropy)


@fault(
    FAMILY,
    step=5,
    phase="loss",
    module="",
    op="mul",
    sample=3,
    cause="zero-times-inf",
    source="https://github.com/pytorch/pytorch/issues/40553",
)
def entropy_of_masked_policy(watch: Watch) -> None:
    """The entropy bonus of a policy multiplies the probability 0 of an illegal action by its log, -inf."""
    torch.manual_seed(3)
    model = mlp(4, 16, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with watch(model, optimizer):
        for step in range(9):
            states = torch.randn(8, 4)
            best = states[:, :3].argmax(dim=1)
            illegal = torch.zeros(8, 3, dtype=torch.bool)
            if step >= 5:
                illegal[3, (int(best[3]) + 1) % 3] = True
            logs = model(states).masked_fill(illegal, float("-inf")).log_softmax(dim=1)
            entropy = -(logs.exp() * logs).sum(dim=1).mean()
            loss = functional.nll_loss(logs, best) - 0.01 * entropy
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


class MaskedMean(nn.Module):
    """Mean over the words that are not padding."""

    def forward(self, x: Tensor, blocked: Tensor) -> Tensor:
        """Shape (batch, 1, width)."""
        kept = (~blocked).float().transpose(1, 2)
        return (x * kept).sum(dim=1, keepdim=True) / kept.sum(dim=1, keepdim=True)


@fault(
    FAMILY,
    step=3,
    phase="forward",
    module="attention",
    op="div",
    sample=4,
    cause="division-by-zero",
    source="https://github.com/mila-iqia/blocks/pull/581",
)
def mean_of_no_words(watch: Watch) -> None:
    """Mean pooling divides by the number of words, which is 0 for one document."""
    torch.manual_seed(4)
    model = Reader(MaskedMean(), 6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = sentences(8)
    batches[3][1][4] = True
    fit(watch, model, optimizer, batches, functional.cross_entropy)


class ExponentialAttention(nn.Module):
    """Attention weights by exp, mask and division, without taking the maximum off first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, 1)

    def forward(self, x: Tensor, blocked: Tensor) -> Tensor:
        """Shape (batch, 1, width)."""
        weights = self.score(x).exp() * (~blocked).float().transpose(1, 2)
        return (weights * x).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True)


@fault(
    FAMILY,
    step=5,
    phase="forward",
    module="attention",
    op="exp",
    sample=6,
    cause="exp-overflow",
    source="GRIST (ICSE 2022, numerical bugs in deep learning): hand-written softmax",
)
def masked_softmax_by_hand(watch: Watch) -> None:
    """A hand-written masked softmax overflows for one sample whose scores are above 89."""
    torch.manual_seed(5)
    model = Reader(ExponentialAttention(6), 6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    batches = sentences(8)
    with torch.no_grad():
        direction = model.attention.score.weight.sign()
    batches[5][0][6] = 400.0 * direction
    fit(watch, model, optimizer, batches, functional.cross_entropy)


class Gated(nn.Module):
    """Attention pooling that also returns its weights."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.score, self.head = nn.Linear(width, 1), nn.Linear(width, outputs)

    def forward(self, x: Tensor, blocked: Tensor) -> tuple[Tensor, Tensor]:
        """Shapes (batch, outputs) and (batch, time)."""
        scores = self.score(x)[..., 0].masked_fill(blocked[:, 0], float("-inf"))
        weights = scores.softmax(dim=1)
        return self.head((weights[..., None] * x).sum(dim=1)), weights


@fault(
    FAMILY,
    step=4,
    phase="backward",
    module="",
    op=("mul", "log"),
    sample=1,
    cause=("masked-branch-gradient", "zero-times-inf"),
    source="https://github.com/pytorch/pytorch/issues/68425",
)
def entropy_of_masked_attention(watch: Watch) -> None:
    """`where(p > 0, p * log(p), 0)` over attention weights: fine forwards, NaN backwards at a masked word."""
    torch.manual_seed(6)
    model = Gated(6, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with watch(model, optimizer):
        for step, (x, _, y) in enumerate(sentences(9)):
            blocked = torch.zeros(8, 1, 5, dtype=torch.bool)
            blocked[1, 0, 4] = step == 4
            logits, p = model(x, blocked)
            entropy = -torch.where(p > 0, p * p.log(), torch.zeros_like(p)).sum(dim=1).mean()
            loss = functional.cross_entropy(logits, y) - 0.01 * entropy
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@fault(
    FAMILY,
    step=0,
    phase="backward",
    module="",
    op="sqrt",
    cause=("masked-branch-gradient", "sqrt-at-zero"),
    source="https://github.com/adambielski/siamese-triplet/issues/18",
)
def distances_with_masked_diagonal(watch: Watch) -> None:
    """Pairwise distances are masked on the diagonal after the square root: its slope at 0 is infinite."""
    torch.manual_seed(7)
    model = mlp(4, 16, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    itself = torch.eye(10, dtype=torch.bool)
    with watch(model, optimizer):
        for _ in range(6):
            points = model(torch.randn(10, 4))
            squared = (points[:, None] - points[None]).pow(2).sum(dim=2)
            distances = squared.sqrt().masked_fill(itself, 10.0)
            loss = functional.relu(1.0 - distances).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


class HalfScores(nn.Module):
    """Scores in float16, with the padding as an additive mask of -1e9."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, 1)

    def forward(self, x: Tensor, blocked: Tensor) -> Tensor:
        """Shape (batch, 1, width)."""
        mask = blocked.transpose(1, 2).to(torch.float16) * -1e9
        weights = (self.score(x).half() + mask).softmax(dim=1)
        return (weights.float() * x).sum(dim=1, keepdim=True)


@fault(
    FAMILY,
    step=5,
    phase="forward",
    module="attention",
    op=("softmax", "mul"),
    sample=0,
    cause=("fully-masked-softmax", "dtype-overflow"),
    source="https://github.com/huggingface/transformers/pull/17306",
)
def mask_value_beyond_float16(watch: Watch) -> None:
    """-1e9 is harmless in float32 and -inf in float16: a row of nothing but padding becomes NaN."""
    torch.manual_seed(8)
    model = Reader(HalfScores(6), 6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = sentences(9)
    batches[5][1][0] = True
    fit(watch, model, optimizer, batches, functional.cross_entropy)
