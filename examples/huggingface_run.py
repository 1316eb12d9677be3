"""Hugging Face: one callback, `NanscopeCallback`, records a Trainer and explains what went wrong.

    pip install "nanscope[huggingface]"
    python examples/huggingface_run.py

A tiny GPT-2, made from a configuration, learns to count. One of its sentences is marked as padding from end
to end, and its loss is the mean over no words: 0 / 0. The Trainer's own log shows a harmless mean instead.
"""

import argparse
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from nanscope.integrations.huggingface import NanscopeCallback

WORDS, LENGTH, IGNORED = 32, 12, -100


def sentences(count: int, padded: int) -> list[dict[str, Tensor]]:
    """Numbers that go up by one; sentence `padded` has nothing that it could learn from."""
    starts = torch.randint(WORDS, (count,))
    rows = [(start + torch.arange(LENGTH)) % WORDS for start in starts]
    labels = [row if i != padded else torch.full_like(row, IGNORED) for i, row in enumerate(rows)]
    return [{"input_ids": row, "labels": label} for row, label in zip(rows, labels, strict=True)]


class PerSentence(Trainer):
    """Every sentence counts the same, however many of its words are padding."""

    def compute_loss(self, model: Any, inputs: dict[str, Tensor], **_: Any) -> Tensor:
        """The mean over sentences of the mean over words."""
        labels = inputs["labels"][:, 1:]
        logits = model(input_ids=inputs["input_ids"]).logits[:, :-1]
        losses = cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
        words = (labels != IGNORED).sum(1)
        return (losses.sum(1) / words).mean()


def main() -> None:
    """Train until it breaks; the last lines are nanscope's."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", default="runs/huggingface", help="a folder")
    args = parser.parse_args()
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=WORDS,
        n_positions=LENGTH,
        n_embd=32,
        n_layer=1,
        n_head=2,
        bos_token_id=None,
        eos_token_id=None,
    )
    settings = TrainingArguments(
        output_dir=args.out,
        max_steps=30,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    PerSentence(
        model=GPT2LMHeadModel(config),
        args=settings,
        train_dataset=sentences(80, padded=13),
        callbacks=[NanscopeCallback(on_nonfinite="stop")],
    ).train()


if __name__ == "__main__":
    main()
