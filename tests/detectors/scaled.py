"""A gradient scaler by hand: runs in which it skips the steps it is told to, moving as torch's own does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from nanscope.run import Run
from tests.builders import make_run

INF = np.inf


def scaled_run(
    rows: int,
    skips: Iterable[int],
    *,
    init: float = 65536.0,
    interval: int = 2000,
    backoff: float = 0.5,
    **changes: Any,
) -> Run:
    """A healthy small model whose gradients overflow at the rows `skips`, and only there.

    The scale is halved after a skip and doubled after `interval` updates in a row (`GradScaler.update`).
    """
    skipped = np.zeros(rows)
    skipped[list(skips)] = 1
    scale, calm, scales = init, 0, []
    for skip in skipped:
        scales.append(scale)
        calm = 0 if skip else calm + 1
        scale = float(np.float32(scale * backoff)) if skip else scale * 2 if calm % interval == 0 else scale
    overflow = np.where(skipped > 0, INF, 1.0)
    parts: dict[str, Any] = {
        "inputs": np.ones(rows),
        "outputs": {"fc1": np.ones(rows), "fc2": np.ones(rows)},
        "grad_outputs": {"fc1": overflow, "fc2": np.ones(rows)},
        "grads": {"fc1.weight": overflow, "fc2.weight": np.ones(rows)},
        "weights": {"fc1.weight": np.linspace(1, 2, rows), "fc2.weight": np.linspace(1, 2, rows)},
        "loss": np.linspace(2, 1, rows),
        "lr": 0.1,
        "loss_scale": scales,
        "skipped": skipped,
    }
    return make_run(**(parts | changes))
