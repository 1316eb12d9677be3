"""Why as paragraphs: what a diagnosis holds is said, and what it lacks is said with how to get it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nanscope.detectors import detect
from nanscope.diagnosis import diagnose
from nanscope.replay.cases import Case
from nanscope.replay.stops import stops_of
from nanscope.replay.why import ASCII, Tone, detail, paragraphs, rules
from nanscope.values import (
    Cause,
    Diagnosis,
    Element,
    Link,
    Location,
    Operand,
    Origin,
    Phase,
    Remedy,
    Result,
    Verdict,
)
from tests.builders import make_run
from tests.replay import story
from tests.replay.story import BIRTH

BORN = Origin(
    7, Phase.FORWARD, "head", None, "log", Location("train.py", 31, "forward"),
    (Operand("self", (1, 10), "float16", 3.5, 0.1, 0, 2, 4),),
    Result((1, 10), "float16", 0, 0, 4), (5, 6), Element((0, 3), (0.0, float("inf"))),
)  # fmt: skip
KNOWN = Diagnosis(
    Verdict.DIVERGED, "it broke", BORN,
    causes=(Cause("log-of-zero", 1, "log saw 0", ("4 zeros of 10",), rewrite="x.clamp(min=1e-12).log()"),),
    remedies=(Remedy("clamp", "clamp it", "prevented", 200), Remedy("lr", "less lr", "not-prevented", 3)),
    trail=(
        Link(6, "grows", Phase.UPDATE),
        Link(7, "log gives -inf", Phase.FORWARD, rule="NS101"),
        Link(7, "the loss is nan", Phase.LOSS),
        Link(7, "gradients are nan", Phase.BACKWARD),
    ),
    unknowns=("nobody knows",),
)  # fmt: skip


def told(diagnosis: Diagnosis, **settings: object) -> list[str]:
    """Head and text of every paragraph."""
    run = make_run(loss=[1.0] * 8, config=settings)
    return [each.head + each.text for each in paragraphs(Case(Path("a b.h5"), run, diagnosis))]


def test_an_origin_is_told_with_all_of_it() -> None:
    """Operation, line, operands with their zeros and infinities, result, element and samples."""
    text = "\n".join(told(KNOWN))
    for words in (
        "step 7, forward, head", "log at train.py:31 in forward",
        "[1, 10] float16, largest 3.5, 2 inf, 4 zero",
        "[1, 10] float16: 0 nan, 0 inf, 4 -inf", "[0, 3] from 0, inf", "5, 6 of the batch",
    ):  # fmt: skip
        assert words in text


def test_causes_remedies_and_gaps() -> None:
    """Cause, evidence and safe form; each remedy with its outcome; what is not known."""
    text = "\n".join(told(KNOWN))
    for words in (
        "1 log-of-zero", "- 4 zeros of 10", "safe: x.clamp(min=1e-12).log()", "[prevented over 200 steps]",
        "[not-prevented over 3 steps]", "nobody knows", "nanscope replay 'a b.h5' NEW.h5",
    ):  # fmt: skip
        assert words in text
    assert "--verify" not in text
    assert "verify_remedies" not in text


def test_what_to_do_stands_before_how_it_came() -> None:
    """Sections come in the order in which a reader needs them."""
    titles = [line for line in told(KNOWN) if line.isupper()]
    assert titles == ["WHERE", "WHY", "OPERANDS", "TRY", "CHECK A FIX", "NOT KNOWN", "TRAIL"]


def test_the_trail_is_a_tree() -> None:
    """A step stands once, what it holds hangs below it; in ASCII, too."""
    lines = told(KNOWN)
    tree = lines[lines.index("TRAIL") + 1 :]
    assert [line[:4] for line in tree] == ["6   ", "7 ┬ ", "  ├ ", "  └ "]
    assert "[NS101]" in tree[1]
    plain = paragraphs(Case(Path("a.h5"), make_run(loss=[1.0]), KNOWN), ASCII)
    assert [each.head for each in plain[-4:]] == ["6   ", "7 + ", "  | ", "  ` "]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dataset": "digits"}, "nanscope diagnose 'a b.h5' --verify"),
        ({}, "record(..., verify_remedies=True)"),
    ],
)
def test_remedies_that_nobody_tried(settings: dict[str, object], words: str) -> None:
    """They are called untried, and the way to try them depends on who can train the run again."""
    untried = replace(KNOWN, remedies=(Remedy("lr", "less lr"),))
    text = "\n".join(told(untried, **settings))
    assert "[untried]" in text
    assert words in text


def test_an_operation_that_is_not_known() -> None:
    """The reason that was recorded, and the argument that would have kept it."""
    run = make_run(loss=[1.0], events=[{"kind": "no-rewind", "step": 0, "why": "the loop is too long"}])
    bare = replace(KNOWN, origin=Origin(7, Phase.FORWARD, "head"))
    text = "\n".join(each.text for each in paragraphs(Case(Path("a.h5"), run, bare)))
    assert "the operation is not known: the loop is too long" in text
    assert "record(..., rewind=True)" in text


def test_a_healthy_run() -> None:
    """No finding, no origin: one sentence, and no section that would be empty."""
    run = make_run(loss=[1.0, 0.9])
    lines = [each.text for each in paragraphs(Case(Path("a.h5"), run, Diagnosis(Verdict.HEALTHY, "fine")))]
    assert lines == ["WHY", "no non-finite value in 2 steps, no rule fired"]


def test_every_finding_of_the_story_is_explained() -> None:
    """Each event that is a finding comes with its rule's own sentence and with numbers."""
    run = story.case(1)
    case = Case(Path("a.h5"), run, diagnose(run))
    found = {finding.message: finding for finding in case.diagnosis.findings}
    explained = 0
    for stop in stops_of(case):
        parts = detail(case, stop)
        assert parts[0].text == stop.what
        if stop.what in found:
            heads = [part for part in parts if part.head == f"{found[stop.what].rule} "]
            assert heads[0].text == rules()[found[stop.what].rule]
            assert any(part.tone is Tone.FAINT and part.head == "  " for part in parts)
            explained += 1
    assert explained
    assert any(stop.row == BIRTH for stop in stops_of(case))


def test_every_rule_that_fires_has_a_sentence() -> None:
    """The words of the rules come from the detectors, so that none can be missing."""
    fired = {finding.rule for finding in detect(story.case(1))}
    assert fired <= set(rules())
    assert rules()["NS101"].startswith("step, phase and site of the first NaN")
