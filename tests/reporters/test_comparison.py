"""The comparison as text: the table, the heat maps, the words."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len

from nanscope.reporters import COMPARISON_REPORTERS, REPORTERS
from nanscope.run import Run
from nanscope.values import Diagnosis, Epoch
from nanscope.view import build_comparison
from tests.reporters.stories import HOSTILE, AsciiStream, Terminal, confusion, diverged_pair, healthy_pair

TABLE = """\
digits, sgd, lr 0.1, seed 0

                   test             macro  seconds  updates  verdict, first
case               loss  accuracy      F1  / epoch  / epoch  non-finite step
full batch        0.150     0.967   0.966    0.210        1  ● healthy
bs=32             0.150     0.967   0.966    0.210       45  ● healthy
bs=1                nan     0.100   0.018    3.100    1,437  ✖ diverged 1653

Only the batch size (full, 32, 1) differs. bs=1 diverged at step 1653; the rest
is healthy.
"""


def shown(*pairs: tuple[Run, Diagnosis], out: io.StringIO | None = None) -> str:
    """What the text reporter writes of several runs."""
    out = out or io.StringIO()
    COMPARISON_REPORTERS["text"](build_comparison(pairs), out)
    return out.getvalue()


def test_both_mappings_offer_the_same_formats() -> None:
    """A format that works for one run works for several."""
    assert list(REPORTERS) == list(COMPARISON_REPORTERS) == ["text", "json"]


def test_table_of_three_cases() -> None:
    """The experiment's table, the sentence about the difference, the command."""
    text = shown(healthy_pair(None), healthy_pair(32), diverged_pair())
    assert text.startswith(TABLE)
    last = text.splitlines()[-1]
    assert last == "nanscope replay runs/digits-bsfull.h5 runs/digits-bs32.h5 runs/digits-bs1.h5"


def test_one_class_jumps_to_the_eye() -> None:
    """A full column, dots elsewhere, a mark at the title, and the reason in words."""
    lines = shown(diverged_pair()).splitlines()
    top = lines.index("✖ bs=1")
    assert lines[top + 2 : top + 12] == [f"{true} █36" + "  ·" * 9 for true in range(10)]
    words = " ".join(" ".join(lines[top + 12 :]).split())
    assert "all 360 predictions are class 0: all logits are NaN: argmax of an all-NaN row" in words


def test_shades_follow_the_share_of_the_row() -> None:
    """Each quarter has its own shade, and zero is a dot."""
    row = (10, 30, 0, 60, 0, 0, 0, 0, 0, 0)
    epoch = Epoch(1, 45, 45, 1.0, 0.1, 0.9, 0.9, (row, *confusion(36)[1:]))
    text = shown(healthy_pair(epochs=(epoch,)))
    assert "0 ░10▒30  ·▓60  ·" in text
    assert "1   ·█36  ·" in text


def test_large_counts_and_ascii() -> None:
    """Four digits per cell still fit; without UTF-8 the shades are ASCII."""
    big = tuple(tuple(value * 30 for value in row) for row in confusion(35))
    epoch = Epoch(30, 1350, 45, 0.2, 0.1, 0.9, 0.9, big)
    text = shown(healthy_pair(epochs=(epoch,)), out=AsciiStream())
    assert "0 @1050+++30" not in text
    assert "0 @1050:::30    .    ." in text


def test_many_classes_are_said_not_drawn() -> None:
    """A matrix that does not fit gives a sentence."""
    wide = tuple(tuple(int(i == j) for j in range(100)) for i in range(100))
    text = shown(healthy_pair(epochs=(Epoch(1, 45, 45, 1.0, 0.1, 0.9, 0.9, wide),)))
    assert "100 classes: too wide for the page" in text


def test_partial_epoch_is_marked() -> None:
    """A case that never completed an epoch shows `~`, and the mark is explained."""
    part = Epoch(1, 400, 400, 1.0, float("nan"), 0.1, 0.018, confusion(0, column=0))
    text = shown(diverged_pair(epochs=(part,)))
    assert f"~{1437 / 400:.3f}" in text
    assert "~ from a part of an epoch" in text


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_hostile_file_names(name: str, stream: type[io.StringIO]) -> None:
    """Names that are labels of the table are cut and cleaned; all lines but the command fit."""
    text = shown(healthy_pair(name=f"{name}1"), healthy_pair(name=f"{name}2"), out=stream())
    assert "\x1b]" not in text
    assert "\u202e" not in text
    if stream is io.StringIO:
        assert all(cell_len(line) <= 80 for line in text.splitlines()[:-1])


def test_runs_without_evaluation_or_settings() -> None:
    """A user's own runs: no scores, no heat map, no invented sentence."""
    text = shown(
        healthy_pair(name="a.h5", config={}, epochs=()), healthy_pair(name="b.h5", config={}, epochs=())
    )
    assert "Predictions" not in text
    assert "Not all of these runs have their settings on record. All of them are healthy." in text
    assert [line.split()[0] for line in text.splitlines()[2:4]] == ["a", "b"]
