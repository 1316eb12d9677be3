"""The live line of a training."""

from __future__ import annotations

import io
import threading

from rich.cells import cell_len

from nanscope.experiment.progress import Progress
from nanscope.reporters.progress import ProgressLine
from tests.reporters.stories import HOSTILE, Terminal

FINE = Progress(1, 30, 1200, 43110, 0.213, 0.931, "final_layer.weight.grad", 32.1)
TROUBLE = Progress(2, 30, 1700, 43110, float("nan"), 0.1, "", 0.0, "step 1653, forward, final_layer.output")


def drawn(out: io.StringIO, *told: Progress) -> str:
    """What is on the stream after these."""
    with ProgressLine("bs=1", out) as show:
        for progress in told:
            show(progress)
    return out.getvalue()


def test_pipe_gets_one_plain_line_at_the_end() -> None:
    """Nothing while it runs, no escape, the last state."""
    text = drawn(io.StringIO(), FINE, FINE)
    assert text == "bs=1   1,200/43,110  loss 0.213  acc 0.931  final_layer.weight.grad 32.1\n"


def test_pipe_stays_silent_without_a_step() -> None:
    """A case that never began leaves no line."""
    assert drawn(io.StringIO()) == ""


def test_terminal_draws_bar_step_loss_accuracy_and_worst_norm() -> None:
    """Everything on one line that fits the screen."""
    text = drawn(Terminal(), FINE)
    for part in ("────", "1,200/43,110", "loss 0.213", "acc 0.931", "grad 32.1"):
        assert part in text


def test_line_turns_with_word_shape_and_colour() -> None:
    """Trouble changes all three, and stands before the loss that it spoilt."""
    text = drawn(Terminal(), FINE, TROUBLE)
    after = text[text.index("✖") :]
    assert "step 1653, forward" in after
    assert "✖" not in drawn(Terminal(), FINE)
    assert drawn(io.StringIO(), TROUBLE).endswith("✖ step 1653, forward, final_layer.output  loss nan\n")


def test_hostile_labels_fit_on_one_line() -> None:
    """Names come from models and are drawn as text, on one line."""
    for name in HOSTILE:
        bad = Progress(1, 1, 1, 1, 1.0, 0.5, name, 1e30, f"step 1, forward, {name}")
        text = drawn(io.StringIO(), bad)
        assert cell_len(text.rstrip("\n")) <= 80
        assert text.isprintable() or text[:-1].isprintable()


def test_no_thread_is_started() -> None:
    """The line is drawn within the call."""
    before = threading.active_count()
    with ProgressLine("bs=1", Terminal()) as show:
        show(FINE)
        assert threading.active_count() == before
