"""A diagnosis against the truth."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, fields
from pathlib import Path

import nanscope
from nanscope.errors import NanscopeError
from nanscope.values import Diagnosis, Verdict
from tests.faults.fault import Fault, Truth, fair

BENIGN = ("loss-scale-overflow",)
"""Causes that may be named in a healthy program: they say that nothing is wrong."""


@dataclass(frozen=True, slots=True)
class Score:
    """What was right. None: the program has no such truth.

    Attributes:
        false_alarm: in a healthy program, whether something was blamed; None in a faulty one.
        remedied: whether a remedy was proved to prevent the fault; None if none was tried or the program is
            healthy.
        said: what the diagnosis answered, in words, for the reader of a wrong score.
    """

    verdict: bool | None = None
    step: bool | None = None
    phase: bool | None = None
    module: bool | None = None
    op: bool | None = None
    sample: bool | None = None
    cause: bool | None = None
    rule: bool | None = None
    false_alarm: bool | None = None
    remedied: bool | None = None
    seconds: float = 0.0
    said: str = ""

    @property
    def wrong(self) -> tuple[str, ...]:
        """Names of what is wrong; empty for a perfect answer. A remedy that was not proved is not wrong."""
        judged = [each.name for each in fields(self)[:8] if getattr(self, each.name) is False]
        return (*judged, "false alarm") if self.false_alarm else tuple(judged)


ASKED = tuple(each.name for each in fields(Score))[:8]
"""What a diagnosis is asked about a fault."""


def train(fault: Fault, path: Path, *, verify: bool = False) -> float:
    """Train it under the recorder; the seconds it took, which trying remedies adds to."""
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own about the program: its fault is not a secret to torch
        fault.program(
            lambda model, optimizer=None: nanscope.record(model, optimizer, path, verify_remedies=verify)
        )
    return time.perf_counter() - began


def judged(fault: Fault, path: Path, *, verify: bool = False) -> Score:
    """Train the program, diagnose the run file, and compare.

    Args:
        fault: a program.
        path: where the run file is to be; must not exist.
        verify: whether remedies are tried.
    """
    seconds = train(fault, path, verify=verify)
    try:
        diagnosis = nanscope.diagnose(path)
    except NanscopeError as error:
        return Score(verdict=False, seconds=seconds, said=f"no diagnosis: {error}")
    return compared(fault.truth, diagnosis, seconds)


def compared(truth: Truth | None, diagnosis: Diagnosis, seconds: float = 0.0) -> Score:
    """The diagnosis of a program with this truth; None for a healthy one."""
    if truth is None:
        blamed = [each.id for each in diagnosis.causes if each.id not in BENIGN]
        alarm = bool(blamed) or diagnosis.verdict in (Verdict.DIVERGED, Verdict.COLLAPSED)
        return Score(false_alarm=alarm, seconds=seconds, said=in_words(diagnosis))
    return _of_fault(truth, diagnosis, seconds)


def _of_fault(truth: Truth, diagnosis: Diagnosis, seconds: float) -> Score:
    origin = diagnosis.origin
    outcomes = {each.outcome for each in diagnosis.remedies} - {"untried"}
    first = diagnosis.causes[0].id if diagnosis.causes else None
    slugs = {each.slug for each in diagnosis.findings}
    return Score(
        verdict=diagnosis.verdict in fair(truth.verdict),
        step=None if truth.step is None else origin is not None and origin.step == truth.step,
        phase=_among(truth.phase, origin and str(origin.phase)),
        module=_among(truth.module, origin and origin.module),
        op=_among(truth.op, origin and origin.op),
        sample=None if truth.sample is None else origin is not None and origin.samples == (truth.sample,),
        cause=_among(truth.cause, first),
        rule=None if truth.rule is None else bool(slugs & set(fair(truth.rule))),
        remedied="prevented" in outcomes if outcomes else None,
        seconds=seconds,
        said=in_words(diagnosis),
    )


def _among(names: str | tuple[str, ...] | None, said: str | None) -> bool | None:
    return None if names is None else said in fair(names)


def in_words(diagnosis: Diagnosis) -> str:
    """The diagnosis in one line."""
    origin = diagnosis.origin
    where = "no origin"
    if origin is not None:
        samples = f" samples {list(origin.samples)[:5]}" if origin.samples else ""
        where = f"step {origin.step}, {origin.phase}, module {origin.module!r}, op {origin.op}{samples}"
    causes = ", ".join(each.id for each in diagnosis.causes) or "no cause"
    return f"{diagnosis.verdict}: {where}; {causes}"
