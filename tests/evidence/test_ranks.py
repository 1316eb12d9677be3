"""What the operands prove beside what the rows say: which is the cause, and which its consequence."""

from __future__ import annotations

from typing import Any

import numpy as np

from nanscope.diagnosis import diagnose
from nanscope.evidence.facts import Facts
from nanscope.evidence.origin import ended_by
from nanscope.values import Cause, Diagnosis, Verdict
from tests.builders import make_run
from tests.evidence.events import INF, Data, operand, origin

STEPS, BIRTH = 200, 150

OVERFLOW = origin("mm", operand(high=1e26), operand("mat2", high=1e27), value=INF, step=BIRTH, noticed=BIRTH)
LOG = origin("log", operand(low=0.0, zeros=1), value=-INF, held=[0.0], step=BIRTH, noticed=BIRTH)
SHARP = {"kind": "sharpness", "step": 100, "sharpness": 25.0, "lr": 0.1, "threshold": 20.0}


def ended(*events: Data, growing: bool = False, **parts: Any) -> Diagnosis:
    """A run that is NaN from step 150 on; until then it grows ten-fold per step, or does not."""
    steps = np.arange(STEPS)
    before = 10.0 ** np.clip(steps - (BIRTH - 35), 0, 34) if growing else np.ones(STEPS)
    size = np.where(steps < BIRTH, before, np.nan)
    ordinary: dict[str, Any] = {
        "inputs": np.ones(STEPS),
        "outputs": {"fc": size},
        "grad_outputs": {"fc": size},
        "weights": {"fc.weight": size},
        "grads": {"fc.weight": size},
        "loss": size,
        "lr": 0.1,
        "events": [{"kind": "state", "step": BIRTH, "parameters": {}, "buffers": {}}, *events],
    }
    return diagnose(make_run(**(ordinary | parts)))


def names(diagnosis: Diagnosis) -> list[str]:
    """Ids of the causes by rank."""
    return [cause.id for cause in diagnosis.causes]


def the(diagnosis: Diagnosis, name: str) -> Cause:
    """One of the causes."""
    return next(cause for cause in diagnosis.causes if cause.id == name)


def test_an_overflow_after_growth_is_its_consequence() -> None:
    """The learning rate comes first; without growth the overflow stands alone."""
    assert names(ended(OVERFLOW, growing=True)) == ["learning-rate-divergence", "dtype-overflow"]
    assert names(ended(OVERFLOW | {"phase": "loss"})) == ["dtype-overflow"]


def test_an_activation_that_was_large_by_itself() -> None:
    """In the forward pass, with weights in order; a large weight, or float16, is another story."""
    alone = [operand("mat1", high=1e30), operand("mat2", high=1e9)]
    born = OVERFLOW | {"operands": alone}
    assert names(ended(born)) == ["activation-explosion", "dtype-overflow"]
    assert names(ended(born | {"operands": [alone[0], alone[1] | {"name": "fc.weight"}]})) == [
        "dtype-overflow"
    ]
    half = born | {"result": born["result"] | {"dtype": "float16"}}
    assert names(ended(half)) == ["dtype-overflow"]


def test_a_logarithm_of_zero_is_the_cause_whatever_grew() -> None:
    """An operation that broke at an ordinary number is not the consequence of an overflow."""
    assert names(ended(LOG, growing=True)) == ["log-of-zero", "learning-rate-divergence"]
    assert names(ended(LOG)) == ["log-of-zero"]


def test_nothing_proved_leaves_what_the_rows_say() -> None:
    """An operation whose operands tell nothing; without growth there is no cause at all, and that is said."""
    unknown = origin("polar_express", operand(), step=BIRTH, noticed=BIRTH)
    assert names(ended(unknown, growing=True)) == ["learning-rate-divergence"]
    answer = ended(unknown)
    assert answer.causes == ()
    assert any("the cause" in line for line in answer.unknowns)


def test_an_absurd_learning_rate_stands_before_an_overflow() -> None:
    """The schedule is to blame, not the width of the dtype; a domain error it does not explain."""
    rate = np.where(np.arange(STEPS) < BIRTH, 0.1, 1e30)
    assert names(ended(OVERFLOW, lr=rate))[0] == "bad-learning-rate"
    assert names(ended(LOG, lr=rate)) == ["log-of-zero", "bad-learning-rate"]


def test_the_sharpness_is_told_where_the_learning_rate_is_blamed() -> None:
    """Above 2 / lr it is the proof, below it is said not to be one; one that is no number is not told."""
    proof = (
        "the sharpness of the loss on the batch of step 100 was 25; at lr 0.1 anything above 20 overshoots"
    )
    cause = the(ended(SHARP, growing=True), "learning-rate-divergence")
    assert cause.evidence[0] == f"{proof}: this is the proof"
    cause = the(ended(SHARP | {"sharpness": 15.0}, growing=True), "learning-rate-divergence")
    assert "was 15; at lr 0.1 the limit is 20" in cause.evidence[0]
    assert "not too large yet" in cause.evidence[0]
    cause = the(ended(SHARP | {"sharpness": "nan"}, growing=True), "learning-rate-divergence")
    assert not any("sharpness" in line for line in cause.evidence)


def test_a_step_that_did_not_fail_again() -> None:
    """A cause of its own, with what differed; not so if its origin was found."""
    event = {"kind": "not-reproduced", "step": BIRTH, "differs": ["loss: nan live, 2.31 again"]}
    answer = ended(event)
    assert names(answer) == ["not-reproducible"]
    assert answer.causes[0].evidence[0] == "loss: nan live, 2.31 again"
    assert names(ended(event, LOG)) == ["log-of-zero"]


def test_a_run_that_went_on_unharmed() -> None:
    """An origin that nothing came of is told, but is no divergence; one at the last step is."""
    steps = np.ones(STEPS)
    parts = {"outputs": {"fc": steps}, "grad_outputs": {}, "weights": {}, "grads": {}, "loss": steps}
    answer = ended(LOG, **parts)
    assert answer.verdict is Verdict.SUSPICIOUS
    assert answer.origin is not None
    assert answer.summary.endswith("and the program left out the update of step 150")
    assert answer.causes == ()
    last = LOG | {"step": STEPS - 1, "noticed": STEPS - 1}
    assert ended(last, **parts).verdict is Verdict.DIVERGED
    run = make_run(loss=steps)
    assert not ended_by(None, run)
    assert ended_by(Facts({}), run)  # noticed nobody knows when


def test_remedies_that_were_tried() -> None:
    """Those that helped come first, those that did not last, and none is told twice."""
    tried = [
        {"id": "lower-learning-rate", "change": "0.5 of it", "outcome": "not-prevented", "steps": 9},
        {"id": "safe-rewrite", "change": "log(x.clamp_min(1e-6))", "outcome": "prevented", "steps": 9},
        {"id": "warm-up", "change": "", "outcome": "not-applicable", "steps": 9},
    ]
    remedies = ended(LOG, {"kind": "remedies", "step": BIRTH, "tried": tried}).remedies
    ids = [remedy.id for remedy in remedies]
    assert (ids[0], remedies[0].outcome, remedies[0].steps) == ("safe-rewrite", "prevented", 9)
    assert (ids[-1], remedies[-1].outcome) == ("lower-learning-rate", "not-prevented")
    assert len(ids) == len(set(ids))
    assert all(remedy.outcome == "untried" for remedy in remedies[1:-1])


def test_a_loss_without_a_lower_bound() -> None:
    """Norms that grow while the loss falls for ever: updates do what they are for; near miss: it rises."""
    steps = np.arange(STEPS)
    fall = np.where(steps < BIRTH, -(10.0 ** np.clip(steps - (BIRTH - 35), 0, 34)), np.nan)
    found = the(ended(growing=True, loss=fall), "learning-rate-divergence")
    assert "follow the loss" in found.why
    assert "no lower bound" in found.evidence[0]
    found = the(ended(growing=True), "learning-rate-divergence")
    assert "overshoot" in found.why
    assert not any("lower bound" in each for each in found.evidence)


def test_a_rate_below_zero_stands_first() -> None:
    """It is told since when; near miss: a small positive one is no cause."""
    rates = np.where(np.arange(STEPS) < 40, 0.1, -0.1)
    answer = ended(OVERFLOW, growing=True, lr=rates)
    assert names(answer)[:2] == ["bad-learning-rate", "learning-rate-divergence"]
    assert "since step 40" in the(answer, "bad-learning-rate").why
    assert "bad-learning-rate" not in names(ended(OVERFLOW, growing=True, lr=1e-9))
