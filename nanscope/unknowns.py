"""What a run file cannot tell, in words: the other half of an honest answer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nanscope.run import Run
from nanscope.values import Finding, Kind, Phase

UNFINISHED = {
    "live": "how it goes on: the training is still running",
    "interrupted": "how it would have gone on: the training was interrupted",
    "killed": "how it ended: the training process is gone and did not close the run file",
    "continued": "how it goes on: the next part of the run is not here",
}


HIDDEN = {
    "compiled": ("torch.compile", "run with TORCH_COMPILE_DISABLE=1"),
    "transformed": ("torch.func", "call the model outside of it"),
}
"""Where calls of modules are not seen, by the event that says so, and what to do."""


def unknowns(run: Run, findings: tuple[Finding, ...]) -> tuple[str, ...]:
    """Everything that would make the answer better and was not recorded."""
    birth = next((finding for finding in findings if finding.rule == "NS101"), None)
    collapsed = any(finding.rule in ("NS202", "NS203", "NS205") for finding in findings)
    watched = bool(run.events_of("origin"))
    parts = [*(_of_birth(run, birth) if birth and not watched else ())]
    parts += [
        f"the operation: the step could not be executed again ({e.get('why')})"
        for e in run.events_of("no-rewind")
    ]
    if collapsed:
        parts.append(
            "which update started the collapse, and with which sample: single operations were not watched"
        )
    return (*parts, *_of_hidden(run), *_of_run(run))


def _of_hidden(run: Run) -> Iterator[str]:
    """Modules whose calls could not be seen."""
    for kind, (where, remedy) in HIDDEN.items():
        names = sorted({name for event in run.events_of(kind) for name in event["modules"]})
        if names:
            some = ", ".join(name or "model" for name in names[:3]) + (", ..." if len(names) > 3 else "")
            yield (
                f"outputs and their gradients of {len(names)} modules inside of {where} ({some}): "
                f"to see them, {remedy}"
            )


def _of_birth(run: Run, birth: Finding) -> Iterator[str]:
    if birth.phase in (Phase.FORWARD, Phase.LOSS, Phase.BACKWARD, Phase.UPDATE):
        yield "the operation and its source line: not watched in this run"
    if birth.phase is Phase.LOSS:
        yield "whether the targets were sound: they were not recorded"
    if birth.phase in (Phase.DATA, Phase.FORWARD, Phase.LOSS, Phase.BACKWARD):
        yield "the sample of the batch: not watched in this run"
    if not any(site.kind is Kind.INPUT for site in run.sites):
        yield "whether the inputs were finite: no floating-point input was recorded"
    if (
        not any(event["step"] == birth.step for event in run.events_of("state"))
        and birth.phase is Phase.FORWARD
    ):
        yield "whether parameters and buffers were finite before the step: their state was not noted"
    yield from _weights(run, birth)


def _weights(run: Run, birth: Finding) -> Iterator[str]:
    weights = [site for site in run.sites if site.kind is Kind.WEIGHT and run.has(site, "l2")]
    row = int(run.steps.searchsorted(birth.step))
    if not weights:
        yield "how the weights moved: they were not recorded"
    elif (
        row
        and birth.phase is not Phase.INIT
        and not np.isfinite(run.series(weights[0], "l2", row - 1, row)).all()
    ):
        yield f"the weights just before step {birth.step}: they are measured at a cadence"


def _of_run(run: Run) -> Iterator[str]:
    if run.state in UNFINISHED:
        yield UNFINISHED[run.state]
    if not run.has(None, "loss"):
        yield "the loss: it was not recorded"
    for event in run.events_of("recorder-failed"):
        yield f"everything after step {event['step']}: the recorder stepped aside ({event['message']})"
    yield from run.lost
