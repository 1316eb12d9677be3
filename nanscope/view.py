"""What a person is shown of a run, or of several: their diagnoses and the few facts that belong to them.

Words and numbers only; how they are wrapped and coloured is a reporter's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from statistics import median
from typing import Any

import numpy as np

from nanscope.facts import batch_of, facts_of, job_of, notices_of, replay_command, updates_per_epoch
from nanscope.growth import Growth, growth_before
from nanscope.numbers import count, listed
from nanscope.run import Floats, Run, is_missing, is_nonfinite
from nanscope.standing import Standing, standing_of
from nanscope.values import Cause, Diagnosis, Epoch, Finding, Severity, Verdict

LOSS_ROWS = 100
ONE_CLASS_RULES = ("NS201", "NS202", "NS203", "NS205")
"""Rules whose message says why all predictions are one class, the strongest first."""
DERIVED = frozenset(
    {"case", "updates_per_epoch", "aftermath", "classes", "label_counts", "input_mean", "input_std"}
)
"""Settings that follow from the others or do not touch the training."""
OF_DATASET = frozenset({"train_size", "test_size"})


@dataclass(frozen=True, slots=True)
class Overview:
    """A heat map of a whole run in digits.

    Attributes:
        stat: what is shown, such as `output norm`.
        aside: what a digit and a column are.
        rows: name of a layer, and a character per column: a digit, `.` for usual, `x` for not finite.
    """

    stat: str
    aside: str
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class View:
    """Everything a screen needs of one run.

    Attributes:
        facts: the run as JSON types: name, steps, state, config, environment, epochs, lost.
        headline: where and when in one short line, without the verdict.
        job: the settings in words; empty when none is on record.
        loss: training loss at the beginning, before any trouble, and at the end, each a mean over up to
            `LOSS_ROWS` steps, NaN when one of them is not finite; None when it was not measured there.
        score: the last evaluation.
        growth: what grew before the origin.
        causes: each with the evidence that is told neither by the trail nor by a cause before it.
        findings: those that the trail does not tell, one per rule, the worst first; each with how many more
            of its rule there are.
        notices: what a reader must know about the file: not closed, not complete.
        command: the next command to type.
        overview: a heat map of the whole run; None unless it was asked for.
    """

    diagnosis: Diagnosis
    facts: Mapping[str, Any]
    headline: str
    job: str = ""
    loss: tuple[float, float] | None = None
    score: Epoch | None = None
    growth: Growth | None = None
    causes: tuple[tuple[Cause, tuple[str, ...]], ...] = ()
    findings: tuple[tuple[Finding, int], ...] = ()
    notices: tuple[str, ...] = ()
    command: str = ""
    overview: Overview | None = None

    @property
    def standing(self) -> Standing:
        """The word that is told first."""
        return standing_of(self.diagnosis.verdict, str(self.facts["state"]))


@dataclass(frozen=True, slots=True)
class Compared:
    """One run among several.

    Attributes:
        label: short and different for every run.
        first_nonfinite: step of the origin.
        seconds: training time of a whole epoch; None when no evaluation is on record.
        estimated: no epoch was completed, so `seconds` is extrapolated from a part of one.
        updates: updates of a whole epoch.
        reading: what to make of predictions that are all one class; empty when they are not.
        loss: as in `View`.
    """

    label: str
    facts: Mapping[str, Any]
    diagnosis: Diagnosis
    first_nonfinite: int | None
    score: Epoch | None
    seconds: float | None
    estimated: bool
    updates: int | None
    reading: str
    notices: tuple[str, ...]
    loss: tuple[float, float] | None = None

    @property
    def standing(self) -> Standing:
        """The word that is told first."""
        return standing_of(self.diagnosis.verdict, str(self.facts["state"]))


@dataclass(frozen=True, slots=True)
class Comparison:
    """Several runs side by side.

    Attributes:
        job: the settings that all have in common, in words.
        difference: one or two sentences: what differs between them, and how they ended.
        command: the next command to type.
    """

    cases: tuple[Compared, ...]
    job: str
    difference: str
    command: str


def build_view(run: Run, diagnosis: Diagnosis) -> View:
    """The view of one run. Reads at most a few thousand rows of it, however long it is."""
    return View(
        diagnosis,
        facts_of(run),
        _headline(run, diagnosis),
        job_of(run.header.config),
        _loss(run),
        run.epochs[-1] if run.epochs else None,
        _growth(run, diagnosis),
        _causes(diagnosis),
        _findings(diagnosis),
        notices_of(run, told=diagnosis.unknowns),
        replay_command([run.name]),
    )


def _headline(run: Run, diagnosis: Diagnosis) -> str:
    if diagnosis.origin:
        origin = diagnosis.origin
        place = str((origin.op is None and origin.site) or origin.module or origin.phase)
        place = "" if place == origin.phase else f", {place}"
        return f"at step {origin.step}{_epoch(run, origin.step)}, {origin.phase}{place}"
    worst = max(diagnosis.findings, key=lambda finding: (finding.severity, -finding.step), default=None)
    if worst is None or worst.severity is Severity.NOTE:
        return _calm(run, diagnosis)
    place = f", {worst.site}" if worst.site else ""
    return f"since step {worst.step}{_epoch(run, worst.step)}{place}: {worst.slug.replace('-', ' ')}"


def _calm(run: Run, diagnosis: Diagnosis) -> str:
    if diagnosis.findings or diagnosis.verdict is not Verdict.HEALTHY:
        return diagnosis.summary
    so_far = standing_of(diagnosis.verdict, run.state).so_far
    calm = f"no non-finite value in {count(len(run))} steps, no rule fired"
    return f"healthy {so_far}: {calm}" if so_far else calm


def _epoch(run: Run, step: int) -> str:
    updates = updates_per_epoch(run.header.config)
    return f" (epoch {step // updates + 1})" if updates else ""


def _loss(run: Run) -> tuple[float, float] | None:
    if not run.has(None, "loss") or not len(run):
        return None
    rows = max(1, min(LOSS_ROWS, len(run) // 10))
    first, last = _mean(_sound(run.scalar("loss", 0, rows))), _mean(run.scalar("loss", len(run) - rows))
    return None if first is None or last is None else (first, last)


def _sound(values: Floats) -> Floats:
    """The values before the first that is not finite; all of them if that is the first."""
    bad = np.flatnonzero(is_nonfinite(values))
    return values[: bad[0]] if bad.size and bad[0] else values


def _mean(values: Floats) -> float | None:
    measured = values[~is_missing(values)].astype(np.float64)
    if not measured.size:
        return None
    return float(measured.mean()) if np.isfinite(measured).all() else float("nan")


def _growth(run: Run, diagnosis: Diagnosis) -> Growth | None:
    grew = diagnosis.origin is not None or any(finding.rule == "NS301" for finding in diagnosis.findings)
    if not grew:
        return None
    step = diagnosis.origin.step if diagnosis.origin else None
    told = [link.step for link in diagnosis.trail] + [finding.step for finding in diagnosis.findings]
    return growth_before(run, step, min((at for at in told if step is None or at < step), default=None))


def _told(diagnosis: Diagnosis) -> set[str]:
    """What the trail says already: its own words, and the findings that it tells in short."""
    rules = {link.rule for link in diagnosis.trail}
    in_short = {finding.message for finding in diagnosis.findings if finding.rule in rules}
    return {link.what for link in diagnosis.trail} | in_short


def _causes(diagnosis: Diagnosis) -> tuple[tuple[Cause, tuple[str, ...]], ...]:
    told = _told(diagnosis)
    causes = []
    for cause in sorted(diagnosis.causes, key=lambda cause: cause.rank):
        causes.append((cause, tuple(line for line in cause.evidence if line not in told)))
        told.update(cause.evidence)
    return tuple(causes)


def _findings(diagnosis: Diagnosis) -> tuple[tuple[Finding, int], ...]:
    """A rule that speaks of forty sites is one line, not forty."""
    told = _told(diagnosis)
    rules: dict[str, list[Finding]] = {}
    for finding in sorted(diagnosis.findings, key=lambda finding: (-finding.severity, finding.step)):
        if finding.message not in told:
            rules.setdefault(finding.rule, []).append(finding)
    return tuple((same[0], len(same) - 1) for same in rules.values())


def build_comparison(pairs: Sequence[tuple[Run, Diagnosis]]) -> Comparison:
    """The view of several runs, in the order given."""
    runs = [run for run, _ in pairs]
    labels = _labels(runs)
    cases = tuple(_compared(label, *pair) for label, pair in zip(labels, pairs, strict=True))
    configs = [run.header.config for run in runs]
    shared = {key: value for key, value in configs[0].items() if _same(configs, key)} if configs else {}
    difference = f"{_settings(configs)} {_endings(cases)}"
    return Comparison(cases, job_of(shared), difference, replay_command(run.name for run in runs))


def _labels(runs: Sequence[Run]) -> list[str]:
    """By batch size, else by file, else by path: the first that tells all of them apart."""
    batches = [batch_of(run.header.config).replace("batch size ", "bs=") for run in runs]
    stems = [PurePath(run.name).stem for run in runs]
    names = [run.name for run in runs]
    choices = (labels for labels in (batches, stems, names) if all(labels) and len(set(labels)) == len(runs))
    return next(choices, [f"{number} {name}" for number, name in enumerate(names, 1)])


def _compared(label: str, run: Run, diagnosis: Diagnosis) -> Compared:
    seconds, estimated, updates = _pace(run)
    return Compared(
        label,
        facts_of(run),
        diagnosis,
        diagnosis.origin.step if diagnosis.origin else None,
        run.epochs[-1] if run.epochs else None,
        seconds,
        estimated,
        updates,
        _reading(run.epochs[-1], diagnosis) if run.epochs else "",
        notices_of(run),
        _loss(run),
    )


def _pace(run: Run) -> tuple[float | None, bool, int | None]:
    """Seconds of a whole epoch, whether that is an estimate, and updates of a whole epoch."""
    updates = updates_per_epoch(run.header.config) or max((e.updates for e in run.epochs), default=0)
    whole = [epoch.seconds for epoch in run.epochs if epoch.updates >= updates]
    if whole and updates:
        return median(whole), False, updates
    part = [epoch for epoch in run.epochs if epoch.updates]
    if not part:
        return None, False, updates or None
    done = sum(epoch.updates for epoch in part)
    return sum(epoch.seconds for epoch in part) * updates / done, True, updates


def _reading(epoch: Epoch, diagnosis: Diagnosis) -> str:
    predicted = np.array(epoch.confusion, np.int64).sum(axis=0)
    if predicted.ndim != 1 or np.count_nonzero(predicted) != 1:
        return ""
    fact = f"all {count(int(predicted.sum()))} predictions are class {int(predicted.argmax())}"
    by_rule = {finding.rule: finding.message for finding in reversed(diagnosis.findings)}
    why = next((by_rule[rule] for rule in ONE_CLASS_RULES if rule in by_rule), "")
    if not why and np.isnan(epoch.loss):
        why = "the loss is nan, and the argmax of an all-NaN row is index 0"
    return f"{fact}: {why}" if why else fact


def _same(configs: Sequence[Mapping[str, Any]], key: str) -> bool:
    return all(key in config and config[key] == configs[0].get(key) for config in configs)


def _settings(configs: Sequence[Mapping[str, Any]]) -> str:
    if not all(configs):
        return "Not all of these runs have their settings on record."
    keys = dict.fromkeys(key for config in configs for key in config if key not in DERIVED)
    varied = [key for key in keys if not _same(configs, key)]
    if "dataset" in varied:
        varied = [key for key in varied if key not in OF_DATASET]
    if not varied:
        return "The recorded settings are the same."
    told = [f"{key.replace('_', ' ')} ({', '.join(_setting(c, key) for c in configs)})" for key in varied]
    if len(told) == 1:
        return f"Only the {told[0]} differs."
    return f"The {listed(told)} differ."


def _setting(config: Mapping[str, Any], key: str) -> str:
    if key not in config:
        return "not recorded"
    return "full" if key == "batch_size" and config[key] is None else str(config[key])


def _endings(cases: Sequence[Compared]) -> str:
    bad = [case for case in cases if case.diagnosis.verdict is not Verdict.HEALTHY]
    cut = [case for case in cases if case.standing.so_far]
    if not bad and not cut:
        return "All of them are healthy."
    ends = [f"{case.label} {_ending(case)}" for case in (*bad, *cut)]
    rest = "; the rest is healthy" if len(ends) < len(cases) else ""
    return f"{'; '.join(ends)}{rest}."


def _ending(case: Compared) -> str:
    verdict, standing = case.diagnosis.verdict, case.standing
    if standing.so_far:
        return f"{'is' if case.facts['state'] == 'live' else 'was'} healthy {standing.so_far}"
    word = "is suspicious" if verdict is Verdict.SUSPICIOUS else str(verdict)
    return word if case.first_nonfinite is None else f"{word} at step {case.first_nonfinite}"
