"""Why: where it was born, the causes, what to try, and the trail, as paragraphs for a screen of any width."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from itertools import groupby
from typing import Any

from nanscope.detectors import DETECTORS
from nanscope.numbers import count, number
from nanscope.replay.cases import Case
from nanscope.replay.stops import Stop
from nanscope.run import Run
from nanscope.samples import told_samples
from nanscope.values import Finding, Link, Origin, Remedy, plain

ROLE = 11  # cells of the words before the operands
MOST_EVIDENCE = 12


class Tone(StrEnum):
    """How loud a paragraph is."""

    PLAIN = "plain"
    TITLE = "title"
    STRONG = "strong"
    FAINT = "faint"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Text of any length; its lines stand as far to the right as `head`, which begins the first, is wide."""

    text: str
    head: str = ""
    tone: Tone = Tone.PLAIN


@dataclass(frozen=True, slots=True)
class Branches:
    """The glyphs of a tree: a step with more below it, one of them, the last of them."""

    first: str = "┬"
    middle: str = "├"
    last: str = "└"


ASCII = Branches("+", "|", "`")


def paragraphs(case: Case, branches: Branches | None = None) -> list[Paragraph]:
    """All that the diagnosis says, what to do before how it came: a reader stops early."""
    parts = (
        ("WHERE", _where(case)),
        ("WHY", _causes(case)),
        ("OPERANDS", _operands(case.diagnosis.origin)),
        ("TRY", _remedies(case)),
        ("CHECK A FIX", _check(case)),
        ("NOT KNOWN", [Paragraph(each, "  ") for each in case.diagnosis.unknowns]),
        ("THE FILE", [Paragraph(each, "  ") for each in case.view.notices]),
        ("TRAIL", _trail(case.diagnosis.trail, branches or Branches())),
    )
    found: list[Paragraph] = []
    for title, lines in parts:
        if lines:
            found += [Paragraph("")] * bool(found) + [Paragraph(title, tone=Tone.TITLE), *lines]
    return found


def detail(case: Case, stop: Stop) -> list[Paragraph]:
    """One event in full: what, where, the rule that fired, and the numbers that it fired on."""
    found = [Paragraph(stop.what, tone=Tone.STRONG)]
    finding = next((each for each in case.diagnosis.findings if each.message == stop.what), None)
    if finding is None:
        return found
    where = f"step {finding.step}" + "".join(f", {each}" for each in (finding.phase, finding.site) if each)
    found += [Paragraph(where), Paragraph(rule_text(finding), f"{finding.rule} ", Tone.FAINT)]
    return found + list(_evidence(finding))


def rule_text(finding: Finding) -> str:
    """When its rule fires, in the words of the detector; else the rule's readable name."""
    return rules().get(finding.rule, finding.slug.replace("-", " "))


@cache
def rules() -> Mapping[str, str]:
    """Every rule with the sentence that its detector begins with."""
    found = {}
    for detector in DETECTORS:
        sentence = re.split(r"\n\s*\n", detector.__doc__ or "")[0].strip()
        for rule in re.findall(r"NS\d+", sentence):
            found[rule] = sentence.removeprefix(f"{rule}: ").rstrip(".")
    return found


def _evidence(finding: Finding) -> Iterator[Paragraph]:
    for name, value in list(finding.evidence.items())[:MOST_EVIDENCE]:
        yield Paragraph(f"{name.replace('_', ' ')} {_told(value)}", "  ", Tone.FAINT)


def _told(value: Any) -> str:
    if isinstance(value, float):
        return number(value)
    return str(plain(value)) if not isinstance(value, list | tuple) else ", ".join(map(_told, value))


def _where(case: Case) -> list[Paragraph]:
    born = case.diagnosis.origin
    if born is None:
        return []
    at = Paragraph(f"step {born.step}, {born.phase}, {born.module or 'model'}", tone=Tone.STRONG)
    if born.op is None:
        return [at, *_unwatched(case.run)]
    place = f" at {born.location} in {born.location.function}" if born.location else ""
    label, samples = told_samples(born)
    made_of = [Paragraph(samples, _role(label), Tone.STRONG)] if label else []
    return [at, Paragraph(f"{born.op}{place}", tone=Tone.BAD), *made_of]


def _unwatched(run: Run) -> Iterator[Paragraph]:
    """Why the operation is not known, and how a run gets to know it."""
    told = next((str(event.get("why", "")) for event in run.events_of("no-rewind")), "")
    yield Paragraph("the operation is not known" + (f": {told}" if told else ""))
    yield Paragraph(
        "record(..., rewind=True) keeps what is needed to execute the bad step again under watch: "
        "operation, source line, operands and samples",
        tone=Tone.FAINT,
    )


def _operands(born: Origin | None) -> list[Paragraph]:
    """The numbers behind it: on a small screen they stand below the cause that they prove."""
    return [] if born is None or born.op is None else list(_numbers(born))


def _numbers(born: Origin) -> Iterator[Paragraph]:
    for operand in born.operands:
        extra = {"NaN": operand.nan, "inf": operand.inf, "zero": operand.zeros}
        told = "".join(f", {count(many)} {word}" for word, many in extra.items() if many)
        text = f"{list(operand.shape)} {operand.dtype}, largest {number(operand.abs_max)}{told}"
        yield Paragraph(text, _role(operand.role))
    if born.result:
        made = born.result
        counts = f"{count(made.nan)} nan, {count(made.posinf)} inf, {count(made.neginf)} -inf"
        yield Paragraph(f"{list(made.shape)} {made.dtype}: {counts}", _role("result"), Tone.STRONG)
    if born.element and born.element.operands:
        values = ", ".join(number(value) for value in born.element.operands)
        yield Paragraph(f"{list(born.element.index)} from {values}", _role("element"))


def _role(name: str) -> str:
    return f"  {name[:ROLE]:<{ROLE}}"


def _causes(case: Case) -> list[Paragraph]:
    found = []
    for cause, evidence in case.view.causes:
        found += [Paragraph(cause.id, f"{cause.rank} ", Tone.STRONG), Paragraph(cause.why, "  ")]
        found += [Paragraph(line, "  - ", Tone.FAINT) for line in evidence]
        if cause.rewrite:
            found.append(Paragraph(cause.rewrite, "  safe: ", Tone.STRONG))
    return found or [Paragraph(no_cause(case))]


def no_cause(case: Case) -> str:
    """What is to be said of a run without a cause."""
    if not case.diagnosis.findings:
        return case.view.headline
    return "nothing that was recorded fits a known cause"


def _remedies(case: Case) -> list[Paragraph]:
    remedies = case.diagnosis.remedies
    found = [_remedy(rank, each) for rank, each in enumerate(remedies, 1)]
    if any(remedy.outcome == "untried" for remedy in remedies):
        found.append(Paragraph(f"what prevents it can be found out: {how_to_verify(case)}", tone=Tone.FAINT))
    return found


def _remedy(rank: int, remedy: Remedy) -> Paragraph:
    over = f" over {count(remedy.steps)} steps" if remedy.steps is not None else ""
    tone = Tone.STRONG if remedy.outcome == "prevented" else Tone.PLAIN
    return Paragraph(f"{remedy.change}   [{remedy.outcome}{over}]", f"{rank} ", tone)


def how_to_verify(case: Case) -> str:
    """What proves remedies: for a run of `nanscope train` a command, for others an argument."""
    if case.run.header.config.get("dataset"):
        return f"nanscope diagnose {shlex.quote(str(case.path))} --verify"
    return "record(..., verify_remedies=True) tries them on the recorded steps"


def _check(case: Case) -> list[Paragraph]:
    if not case.diagnosis.remedies:
        return []
    return [
        Paragraph("record a run with the change; exit code 0 is a healthy one:", tone=Tone.FAINT),
        Paragraph("nanscope diagnose NEW.h5", "  "),
        Paragraph(f"nanscope replay {shlex.quote(str(case.path))} NEW.h5", "  "),
    ]


def _trail(trail: tuple[Link, ...], branches: Branches) -> list[Paragraph]:
    """A tree: what one step holds hangs together."""
    digits = max((len(str(link.step)) for link in trail), default=0)
    found = []
    for step, group in groupby(trail, lambda link: link.step):
        links = list(group)
        for i, link in enumerate(links):
            last = branches.last if i else " "
            more = branches.middle if i else branches.first
            branch = last if i == len(links) - 1 else more
            found.append(Paragraph(_link(link), f"{'' if i else step:>{digits}} {branch} "))
    return found


def _link(link: Link) -> str:
    site = f"{link.site}: " if link.site and str(link.site) not in link.what else ""
    phase = f"{link.phase}: " if link.phase else ""
    rule = f" [{link.rule}]" if link.rule else ""
    return f"{phase}{site}{link.what}{rule}"
