"""The trail: from the first sign over the birth to where the trouble was noticed, by step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from nanscope.causes import COLLAPSE_REMEDIES
from nanscope.numbers import count, number, score
from nanscope.run import Run, is_nonfinite
from nanscope.values import Finding, Kind, Link, Phase, Severity, Site

WEIGHTS_SHOWN = 5
NOTABLE = 0.1  # relative change that makes a weight's value worth a line
REACH = 1000
_ORDER = list(Phase)


def trail(run: Run, findings: tuple[Finding, ...]) -> tuple[Link, ...]:
    """Links by step, within a step in the order of execution; empty in a healthy run."""
    by_rule = {finding.rule: finding for finding in reversed(findings)}
    links = [*_signs(findings)]
    birth = by_rule.get("NS101")
    if birth is not None:
        links += [*_before(run, birth, by_rule.get("NS301")), *_after(run, birth)]
    links += [Link(e["step"], f"the training raised: {e['message']}") for e in run.events_of("error")]
    links += _evaluations(run, birth) if birth is not None else []
    return tuple(sorted(dict.fromkeys(links), key=_position))


def _position(link: Link) -> tuple[int, int]:
    return link.step, _ORDER.index(link.phase) if link.phase else len(_ORDER)


def _signs(findings: tuple[Finding, ...]) -> Iterator[Link]:
    """What the detectors say; a note other than the echo is no link."""
    for finding in findings:
        if finding.severity > Severity.NOTE or finding.rule == "NS102":
            yield Link(finding.step, _in_short(finding), finding.phase, finding.site, finding.rule)


def _in_short(finding: Finding) -> str:
    """The message of a finding without the step and phase that stand beside it."""
    known = finding.evidence
    if finding.rule == "NS101":
        return f"{known['name']}{elements(known)}: the first non-finite value"
    if finding.rule == "NS102":
        return f"{known['poisoned']} parameters are non-finite from here on: what follows is its echo"
    if finding.rule == "NS201" and known["all_logits_nan"]:
        return "every prediction from here on is class 0: argmax of an all-NaN row is index 0"
    if finding.rule == "NS301":
        rate, sites = number(known["rate"]), len(known["sites"])
        return f"{finding.site} begins to grow, {rate} times per step ({sites} sites grow)"
    if finding.rule in COLLAPSE_REMEDIES and finding.site is not None:
        return f"{finding.site}: {finding.slug.replace('-', ' ')} begins"
    return finding.message


def elements(counts: Mapping[str, Any]) -> str:
    """How many elements are broken, as `: 3 inf, 1 NaN`; empty where they were not counted."""
    kinds = (
        f"{count(counts[kind])} {word}" for kind, word in (("inf", "inf"), ("nan", "NaN")) if counts[kind]
    )
    found = ", ".join(kinds)
    return f": {found}" if found else ""


def _before(run: Run, birth: Finding, growth: Finding | None) -> Iterator[Link]:
    """The weights on their way up, and the last finite loss."""
    stop = int(run.steps.searchsorted(birth.step))
    start = int(run.steps.searchsorted(growth.step)) + 1 if growth else stop
    yield from _largest_weight(run, start, stop)
    if stop and run.has(None, "loss"):
        loss = run.scalar("loss", stop - 1, stop)[0]
        if np.isfinite(loss):
            yield Link(int(run.steps[stop - 1]), f"the loss is {number(loss)}, still finite", Phase.LOSS)


def _largest_weight(run: Run, start: int, stop: int) -> Iterator[Link]:
    """The last measurements of the parameter that became the largest."""
    best: tuple[float, Site, np.ndarray, np.ndarray] | None = None
    start = max(start, stop - REACH)
    stat = "abs_max" if any(run.has(s, "abs_max") for s in run.sites if s.kind is Kind.WEIGHT) else "l2"
    for site in (s for s in run.sites if s.kind is Kind.WEIGHT and run.has(s, stat)):
        values = run.series(site, stat, start, stop)
        at = np.flatnonzero(np.isfinite(values))
        if at.size and (best is None or values[at].max() > best[0]):
            best = float(values[at].max()), site, at + start, values[at]
    if best is None:
        return
    word = "largest element" if stat == "abs_max" else "norm"
    moved = np.flatnonzero(np.abs(np.diff(best[3], prepend=0.0)) > NOTABLE * best[3])
    for i in moved[-WEIGHTS_SHOWN:]:
        text = f"{word} of {best[1]} is {number(best[3][i])}"
        yield Link(int(run.steps[best[2][i]]), text, Phase.UPDATE, best[1])


def _after(run: Run, birth: Finding) -> Iterator[Link]:
    """The first non-finite loss, and the first step with non-finite gradients."""
    start = int(run.steps.searchsorted(birth.step))
    stop = min(len(run), start + REACH)
    if run.has(None, "loss") and birth.phase is not Phase.LOSS:
        loss = run.scalar("loss", start, stop)
        bad = np.flatnonzero(is_nonfinite(loss))
        if bad.size:
            yield Link(int(run.steps[start + bad[0]]), f"the loss is {loss[bad[0]]}", Phase.LOSS)
    grads = [s for s in run.sites if s.kind is Kind.GRAD and run.has(s, "l2")]
    bad_grads = {
        s: at[0] for s in grads if (at := np.flatnonzero(is_nonfinite(run.series(s, "l2", start, stop)))).size
    }
    if bad_grads:
        row = min(bad_grads.values())
        bad_count = sum(at == row for at in bad_grads.values())
        text = f"the gradients of {bad_count} of {len(grads)} parameters are non-finite"
        yield Link(int(run.steps[start + row]), text, Phase.BACKWARD)


def _evaluations(run: Run, birth: Finding) -> list[Link]:
    """The first evaluation after the birth: what the metrics of a NaN model are made of."""
    late = [epoch for epoch in run.epochs if epoch.step > birth.step]
    if not late:
        return []
    first = late[0]
    text = f"evaluation: loss {score(first.loss)}, accuracy {score(first.accuracy)}, F1 {score(first.f1)}"
    rows = [sum(row) for row in first.confusion]
    if sum(rows) and all(row[0] == total for row, total in zip(first.confusion, rows, strict=True)):
        text += ": every prediction is class 0, so accuracy is the share of class 0"
    return [Link(first.step, text)]
