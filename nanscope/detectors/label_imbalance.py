"""Do the predictions favour one class only because the labels do?"""

from __future__ import annotations

from collections.abc import Iterable

from nanscope.detectors._births import lasting
from nanscope.detectors.class_collapse import label_shares, window_rows, windows
from nanscope.run import Run
from nanscope.values import Finding, Severity

RULES = 0.5
"""Share of the labels from which a class rules them; and twice what an even mix gives."""
FOLLOWS = 0.8


def label_imbalance(run: Run) -> Iterable[Finding]:
    """NS204: one class rules the training labels and most predictions of the last window are that class."""
    labels = label_shares(run)
    if len(labels) < 2 or max(labels) < max(RULES, 1.5 / len(labels)) or lasting(run) is not None:
        return
    if len(run) < window_rows(run):
        return
    view = windows(run)
    top = labels.index(max(labels))
    if top >= view.predicted.shape[-1] or view.predicted[-1, top] < FOLLOWS * labels[top]:
        return
    share = float(view.predicted[-1, top])
    yield Finding(
        "NS204",
        "label-imbalance",
        Severity.NOTE,
        int(run.steps[len(run) - view.rows]),
        f"{share:.0%} of the last predictions are class {top}, and so are {labels[top]:.0%} of the "
        f"training labels",
        evidence={"class": top, "label_share": labels[top], "predicted_share": share, "window": view.rows},
    )
