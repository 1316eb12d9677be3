"""The scoreboard itself: a right answer scores, a near miss does not, and the tables say so."""

from __future__ import annotations

from dataclasses import replace

import pytest
from click.testing import CliRunner

from nanscope.values import Cause, Diagnosis, Finding, Origin, Phase, Remedy, Severity, Verdict
from tests.faults import backward, forward, healthy
from tests.faults.__main__ import main
from tests.faults.fault import Truth
from tests.faults.rivals import RIVALS, Said, complaint, graded
from tests.faults.score import compared

TRUTH = Truth(4, "backward", "root", ("sqrt", "rsqrt"), 2, "sqrt-at-zero", "diverged", None)
ORIGIN = Origin(4, Phase.BACKWARD, "root", op="sqrt", samples=(2,))
RIGHT = Diagnosis(Verdict.DIVERGED, "", origin=ORIGIN, causes=(Cause("sqrt-at-zero", 1, ""),))
ANOMALY = RIVALS[0]


def test_a_right_answer() -> None:
    """Nothing is wrong, and what was not tried is not scored."""
    score = compared(TRUTH, RIGHT)
    assert score.wrong == ()
    assert score.cause is score.sample is True
    assert score.remedied is score.rule is score.false_alarm is None


@pytest.mark.parametrize(
    ("wrong", "diagnosis"),
    [
        ("step", replace(RIGHT, origin=replace(ORIGIN, step=5))),
        ("phase", replace(RIGHT, origin=replace(ORIGIN, phase=Phase.LOSS))),
        ("module", replace(RIGHT, origin=replace(ORIGIN, module=""))),
        ("op", replace(RIGHT, origin=replace(ORIGIN, op="div"))),
        ("sample", replace(RIGHT, origin=replace(ORIGIN, samples=(2, 3)))),
        ("cause", replace(RIGHT, causes=(Cause("log-of-zero", 1, ""), Cause("sqrt-at-zero", 2, "")))),
        ("verdict", replace(RIGHT, verdict=Verdict.SUSPICIOUS)),
    ],
)
def test_one_thing_wrong(wrong: str, diagnosis: Diagnosis) -> None:
    """Each answer is judged by itself: only the first cause counts, and no other sample may be named."""
    assert compared(TRUTH, diagnosis).wrong == (wrong,)


def test_no_origin_is_wrong_in_everything() -> None:
    """Silence does not score."""
    silent = Diagnosis(Verdict.HEALTHY, "")
    assert set(compared(TRUTH, silent).wrong) == {
        "verdict", "step", "phase", "module", "op", "sample", "cause"
    }  # fmt: skip


@pytest.mark.parametrize(("slug", "right"), [("class-collapse", True), ("loss-spike", False)])
def test_a_rule_that_must_be_there(slug: str, right: bool) -> None:
    """A collapse has no origin; a finding tells of it."""
    truth = Truth(None, None, None, None, None, None, "collapsed", ("class-collapse", "dead-layer-collapse"))
    finding = Finding("NS000", slug, Severity.ERROR, 3, "")
    score = compared(truth, Diagnosis(Verdict.COLLAPSED, "", findings=(finding,)))
    assert score.rule is right
    assert score.step is score.op is None


@pytest.mark.parametrize(
    ("diagnosis", "alarm"),
    [
        (Diagnosis(Verdict.HEALTHY, ""), False),
        (Diagnosis(Verdict.SUSPICIOUS, ""), False),
        (Diagnosis(Verdict.HEALTHY, "", causes=(Cause("loss-scale-overflow", 1, ""),)), False),
        (Diagnosis(Verdict.HEALTHY, "", causes=(Cause("dtype-overflow", 1, ""),)), True),
        (Diagnosis(Verdict.COLLAPSED, ""), True),
    ],
)
def test_false_alarms(diagnosis: Diagnosis, alarm: bool) -> None:
    """In a healthy program a note may be said, and nothing blamed."""
    assert compared(None, diagnosis).false_alarm is alarm


@pytest.mark.parametrize(
    ("outcomes", "remedied"),
    [(("untried",), None), (("untried", "not-prevented"), False), (("not-prevented", "prevented"), True)],
)
def test_remedies(outcomes: tuple[str, ...], remedied: bool | None) -> None:
    """A remedy counts when it was executed."""
    remedies = tuple(Remedy("x", "", outcome) for outcome in outcomes)
    assert compared(TRUTH, replace(RIGHT, remedies=remedies)).remedied is remedied


def test_a_rival_that_is_right() -> None:
    """detect_anomaly names the step of a slope of inf at zero, and the operation behind, where it is NaN."""
    said = complaint(ANOMALY, backward.root_of_an_exact_zero)
    assert said is not None
    assert (said.step, said.op) == (4, "pow")
    assert graded(backward.root_of_an_exact_zero, replace(said, op="sqrt")) == (True, True, False)
    assert graded(backward.root_of_an_exact_zero, said) == (True, False, False)


def test_a_rival_that_says_nothing() -> None:
    """Silence is wrong in a faulty program, and right in a healthy one."""
    assert graded(forward.naive_softmax, None) == (False, False, False)
    assert graded(healthy.causal_mask, None) == (None, None, False)
    assert graded(healthy.causal_mask, Said(0, None, ""))[2]


def test_the_table_for_the_readme() -> None:
    """Markdown with a row per family and one for all."""
    result = CliRunner().invoke(main, ["--only", "log_of_a_count", "--format", "markdown"])
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stdout.splitlines() if line.startswith("|")]
    assert [line.split(" | ")[0] for line in lines] == ["| family", "| ---", "| forward", "| all"]
    assert len({line.count("|") for line in lines}) == 1


def test_a_name_that_does_not_exist() -> None:
    """Said in one line."""
    assert CliRunner().invoke(main, ["--only", "no_such_program"]).exit_code == 2
