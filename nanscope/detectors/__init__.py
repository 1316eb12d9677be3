"""One question per file: detectors look at a run and return findings."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from nanscope.detectors.class_collapse import class_collapse
from nanscope.detectors.dead_units import dead_units
from nanscope.detectors.echo import echo
from nanscope.detectors.first_nonfinite import first_nonfinite
from nanscope.detectors.frozen_weights import frozen_weights
from nanscope.detectors.geometric_growth import geometric_growth
from nanscope.detectors.headroom import headroom
from nanscope.detectors.healed import healed
from nanscope.detectors.label_imbalance import label_imbalance
from nanscope.detectors.loss_spike import loss_spike
from nanscope.detectors.lost_loss import lost_loss
from nanscope.detectors.nan_predictions import nan_predictions
from nanscope.detectors.overshooting_update import overshooting_update
from nanscope.detectors.scaler_skip import scaler_skip
from nanscope.detectors.silenced_layer import silenced_layer
from nanscope.detectors.sinking_scale import sinking_scale
from nanscope.detectors.skipped_steps import skipped_steps
from nanscope.detectors.vanishing_gradient import vanishing_gradient
from nanscope.run import Run
from nanscope.values import Finding

Detector = Callable[[Run], Iterable[Finding]]
"""A pure function from a run to what it found, nothing being a normal answer.

It asks one question, reads the run through its overview first, and never raises to say "found". A detector
whose columns were not recorded finds nothing.
"""

DETECTORS: tuple[Detector, ...] = (
    first_nonfinite,
    echo,
    healed,
    scaler_skip,
    nan_predictions,
    class_collapse,
    silenced_layer,
    label_imbalance,
    geometric_growth,
    overshooting_update,
    loss_spike,
    lost_loss,
    dead_units,
    vanishing_gradient,
    frozen_weights,
    headroom,
    sinking_scale,
    skipped_steps,
)


def detect(run: Run) -> tuple[Finding, ...]:
    """Everything that all detectors find in a run, by step; at the same step the worst first."""
    found = (finding for detector in DETECTORS for finding in detector(run))
    return tuple(sorted(found, key=lambda finding: (finding.step, -finding.severity, finding.rule)))
