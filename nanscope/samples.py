"""The samples of a bad step in words: rows of its batch, and where these come from in the data set."""

from __future__ import annotations

from collections.abc import Sequence

from nanscope.numbers import count
from nanscope.values import Origin

MOST = 8  # that are named one by one


def in_dataset(dataset: str, rows: Sequence[int]) -> str:
    """Such as `MNIST[1204], MNIST[7]`: what one types to look at them; the first few."""
    named = [f"{dataset}[{row}]" for row in rows[:MOST]]
    more = [f"and {count(len(rows) - MOST)} more"] if len(rows) > MOST else []
    return ", ".join([*named, *more])


def told_samples(origin: Origin) -> tuple[str, str]:
    """What the step was made of: a label, and the samples that broke, or else all of its batch.

    Both are empty where neither is known.
    """
    drawn = origin.dataset_rows
    if not origin.samples:
        return ("batch", in_dataset(origin.dataset, drawn)) if drawn else ("", "")
    told = f"{', '.join(map(str, origin.samples))} of the batch"
    if drawn:
        told += f": {in_dataset(origin.dataset, [drawn[row] for row in origin.samples])}"
    return "samples", told
