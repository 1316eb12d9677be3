"""The nouns: one immutable value per stage of nanscope, free of torch, h5py and numpy.

`DESIGN` words: site, finding, origin, trail, cause, remedy, diagnosis. Every stage takes the values of the
stage before it and returns its own; none is changed after it was made.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any

DIAGNOSIS_SCHEMA = 1


class Kind(StrEnum):
    """What a site measures."""

    INPUT = "input"
    OUTPUT = "output"
    GRAD_OUTPUT = "grad_output"
    WEIGHT = "weight"
    GRAD = "grad"
    UPDATE = "update"


class Phase(StrEnum):
    """The part of a step, in the order of execution (`init` comes before step 0)."""

    INIT = "init"
    DATA = "data"
    FORWARD = "forward"
    LOSS = "loss"
    BACKWARD = "backward"
    UPDATE = "update"


class Severity(IntEnum):
    """How much a finding matters; ordered, so that `max` is the worst."""

    NOTE = 0
    WARNING = 1
    ERROR = 2

    def __str__(self) -> str:
        return self.name.lower()


class Verdict(StrEnum):
    """The one-word answer."""

    DIVERGED = "diverged"
    COLLAPSED = "collapsed"
    SUSPICIOUS = "suspicious"
    HEALTHY = "healthy"


@dataclass(frozen=True, slots=True)
class Site:
    """A place where one tensor of every step is measured.

    Attributes:
        name: the module's fqn (`""` is the root) for input, output and grad_output; the parameter's name
            (`fc2.weight`) for weight, grad and update.
        kind: what is measured there.
        module_type: class name of the module, such as `Linear`.
        order: position in the execution of a forward pass, -1 when the module was not seen to run. A
            parameter has the order of the module that holds it.
        dtype: such as `float32`, as seen when the run file was made; `""` when not known.
        numel: elements of a parameter, 0 where it depends on the batch.
    """

    name: str
    kind: Kind
    module_type: str = ""
    order: int = -1
    dtype: str = ""
    numel: int = 0

    def __str__(self) -> str:
        name = self.name or "model"
        return name if self.kind is Kind.WEIGHT else f"{name}.{self.kind}"

    @property
    def module(self) -> str:
        """Fqn of the module: the site's name, without the parameter's own name."""
        if self.kind in (Kind.WEIGHT, Kind.GRAD, Kind.UPDATE):
            return self.name.rpartition(".")[0]
        return self.name


@dataclass(frozen=True, slots=True)
class Finding:
    """What one detector saw at one place and step.

    Attributes:
        rule: id such as `NS101`; `slug` is its readable twin, such as `first-nonfinite`.
        message: one sentence in plain words, with the measured numbers in it.
        evidence: the numbers behind the sentence, by name; values are plain numbers, strings or tuples.
    """

    rule: str
    slug: str
    severity: Severity
    step: int
    message: str
    site: Site | None = None
    phase: Phase | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Location:
    """A place in the user's source."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        """File and line, as short as it can be found from here: below the current folder, or as imported."""
        below = str(Path.cwd()) + os.sep
        file = self.file.removeprefix(below).rpartition(f"site-packages{os.sep}")[2]
        return f"{file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Operand:
    """One input of the operation where the first non-finite value was born."""

    role: str
    shape: tuple[int, ...]
    dtype: str
    abs_max: float
    abs_min_nonzero: float
    nan: int
    inf: int
    zeros: int


@dataclass(frozen=True, slots=True)
class Result:
    """The output of that operation."""

    shape: tuple[int, ...]
    dtype: str
    nan: int
    posinf: int
    neginf: int


@dataclass(frozen=True, slots=True)
class Element:
    """One offending element: its index in the result and the operand values that made it."""

    index: tuple[int, ...]
    operands: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """The first place whose inputs were finite and whose output was not.

    `step`, `phase`, `module` and `site` come from the recorded rows. `op`, `location`, `operands`, `result`,
    `samples` and `element` need the step to be executed again under watch; until then they are empty.
    `samples` are rows of the batch; `dataset_rows` says of each row of the batch which sample of `dataset` it
    is, where that is certain: the indices that a loader's sampler drew.
    """

    step: int
    phase: Phase
    module: str
    site: Site | None = None
    op: str | None = None
    location: Location | None = None
    operands: tuple[Operand, ...] = ()
    result: Result | None = None
    samples: tuple[int, ...] = ()
    element: Element | None = None
    dataset: str = ""
    dataset_rows: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Cause:
    """A catalogue entry with the evidence that was measured for it; rank 1 is the most likely.

    `rewrite` is a safe form of the code as one short line, empty where the code is not the cause.
    """

    id: str
    rank: int
    why: str
    evidence: tuple[str, ...] = ()
    remedies: tuple[str, ...] = ()
    rewrite: str = ""


@dataclass(frozen=True, slots=True)
class Remedy:
    """A change to try. `outcome` is `untried` unless the steps were executed again with it."""

    id: str
    change: str
    outcome: str = "untried"
    steps: int | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """One link of the trail: what was seen, where, when; `rule` if a finding says it."""

    step: int
    what: str
    phase: Phase | None = None
    site: Site | None = None
    rule: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The answer: what happened, where and when, why, what to try, what is not known.

    Attributes:
        verdict: one word.
        summary: one sentence that a person reads first.
        origin: null in a run without a non-finite value.
        causes: by rank.
        findings: every finding, by step.
        remedies: changes to try, best first.
        trail: from before the origin to where it was noticed, by step.
        unknowns: what the run file cannot tell, in words.
    """

    verdict: Verdict
    summary: str
    origin: Origin | None = None
    causes: tuple[Cause, ...] = ()
    findings: tuple[Finding, ...] = ()
    remedies: tuple[Remedy, ...] = ()
    trail: tuple[Link, ...] = ()
    unknowns: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types, schema 1; NaN and inf become the strings "nan", "inf", "-inf"."""
        return {"schema": DIAGNOSIS_SCHEMA, **plain(self)}


def plain(value: Any) -> Any:  # noqa: PLR0911 - one return per type reads as a table
    """Value as JSON types: dataclasses to dicts, enums and sites to words, non-finite floats to strings."""
    if isinstance(value, Severity | Site):
        return str(value)
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


@dataclass(frozen=True, slots=True)
class Epoch:
    """The evaluation after one epoch (or after the last, partial one).

    Attributes:
        epoch: 1-based; the number of the epoch that was being trained.
        step: steps recorded when it was taken.
        updates: optimizer steps within this epoch.
        seconds: training time of this epoch, without the evaluation.
        loss, accuracy, f1: on the evaluation set; f1 is the macro average.
        confusion: rows are true classes, columns are predicted classes.
    """

    epoch: int
    step: int
    updates: int
    seconds: float
    loss: float
    accuracy: float
    f1: float
    confusion: tuple[tuple[int, ...], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As a dict that `Epoch(**d)` takes back."""
        return asdict(self)
