"""The view: what is taken from a run, and what a run may lack."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest

from nanscope.facts import batch_of, job_of, updates_per_epoch
from nanscope.growth import growth_before
from nanscope.numbers import count, number, score
from nanscope.run import Run
from nanscope.values import Cause, Epoch, Finding, Severity, Verdict
from nanscope.view import build_comparison, build_view
from tests.builders import every, make_run
from tests.reporters.stories import confusion, diverged_pair, healthy_pair


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "-"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (0.0, "0"),
        (0.2542, "0.254"),
        (1653.4, "1,653"),
        (999.7, "1,000"),
        (123456.0, "1.2e5"),
        (-1.4e26, "-1.4e26"),
        (2e-7, "2.0e-7"),
    ],
)
def test_number(value: float | None, words: str) -> None:
    """Three significant digits, short exponents."""
    assert number(value) == words


def test_count_and_score() -> None:
    """Thousands apart; three decimals unless that is silly."""
    assert count(43110) == "43,110"
    assert [score(x) for x in (0.95, float("nan"), 2.3e36, None)] == ["0.950", "nan", "2.3e36", "-"]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, ""),
        ({"batch_size": None}, "full batch"),
        (
            {"dataset": "digits", "batch_size": 1, "optimizer": "sgd", "lr": 0.1, "seed": 0},
            "digits, batch size 1, sgd, lr 0.1, seed 0",
        ),
        ({"lr": 0.1, "momentum": 0.9}, "lr 0.1, momentum 0.9"),
        ({"dataset": ["no", "word"], "batch_size": True, "lr": {}}, ""),
    ],
)
def test_job_in_words(config: dict[str, Any], words: str) -> None:
    """Absent or strange settings are left out."""
    assert job_of(config) == words


@pytest.mark.parametrize(
    ("config", "updates"),
    [
        ({}, None),
        ({"updates_per_epoch": 45}, 45),
        ({"train_size": 1437, "batch_size": 32}, 45),
        ({"train_size": 1437, "batch_size": None}, 1),
        ({"train_size": 1437}, None),
        ({"train_size": 1437, "batch_size": 0}, None),
        ({"train_size": "many", "batch_size": 32}, None),
    ],
)
def test_updates_per_epoch(config: dict[str, Any], updates: int | None) -> None:
    """Given, or from the sizes, or unknown."""
    assert updates_per_epoch(config) == updates
    assert isinstance(batch_of(config), str)


def test_view_is_immutable() -> None:
    """A stage's value never changes."""
    view = build_view(*healthy_pair())
    with pytest.raises(FrozenInstanceError):
        view.job = "other"  # type: ignore[misc]


def test_healthy_headline_claims_only_what_holds() -> None:
    """With a note among the findings, "no rule fired" would be false."""
    run, diagnosis = healthy_pair()
    assert build_view(run, diagnosis).headline == "no non-finite value in 1,350 steps, no rule fired"
    note = Finding("NS105", "healed", Severity.NOTE, 7, "a NaN was born at step 7 and masked away")
    noted = build_view(run, replace(diagnosis, findings=(note,)))
    assert noted.headline == diagnosis.summary
    assert noted.findings == ((note, 0),)


def test_evidence_is_told_once() -> None:
    """What the trail or an earlier cause says is not said again."""
    run, diagnosis = diverged_pair()
    causes = (
        Cause("dtype-overflow", 2, "why", ("shared", "own")),
        Cause("x", 1, "why", ("shared", "the loss is nan")),
    )
    view = build_view(run, replace(diagnosis, causes=causes))
    assert [(cause.rank, evidence) for cause, evidence in view.causes] == [(1, ("shared",)), (2, ("own",))]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_loss_at_the_end_is_not_the_last_finite_one(bad: float) -> None:
    """A run that ends in NaN ends in NaN."""
    run = make_run(loss=[2.0] * 50 + [1.0] * 49 + [bad])
    loss = build_view(run, healthy_pair()[1]).loss
    assert loss is not None
    assert loss[0] == 2.0
    assert np.isnan(loss[1])


def test_growth_marks_against_plain_decades() -> None:
    """Marks equal the decades above the median of the beginning, computed one by one."""
    rows, birth = 300, 280
    values = np.where(np.arange(rows) < 260, 3.0, 3.0 * 3.7 ** (np.arange(rows) - 259.0))
    values[birth:] = np.nan
    growth = growth_before(make_run(outputs={"fc": values, "still": np.ones(rows)}), birth, 262)
    assert growth is not None
    (strip,) = growth.strips
    shown = values[growth.first : growth.last + 1].astype(np.float32).astype(np.float64)
    oracle = []
    for value in shown:
        decades = 0 if np.isnan(value) else int(np.floor(np.log10(value / 3.0)))
        oracle.append("x" if np.isnan(value) else "." if decades < 1 else str(-(-decades // growth.decades)))
    assert strip.marks == "".join(oracle)
    assert (strip.name, strip.usual, growth.bucket, growth.last) == ("fc.output", 3.0, 1, birth)
    assert growth.decades == 2


def test_growth_over_many_steps_is_bucketed_with_the_worst_of_each() -> None:
    """The window reaches back to the first sign, and a one-step spike is not lost."""
    rows, birth = 2000, 1900
    values = np.full(rows, 2.0)
    values[1200] = 2e5
    values[birth - 5 :] = 5e3
    growth = growth_before(make_run(loss=values), birth, 1100)
    assert growth is not None
    (strip,) = growth.strips
    assert len(strip.marks) <= 32
    assert growth.first <= 1100
    assert growth.bucket > 20
    at = (1200 - growth.first) // growth.bucket
    assert strip.marks[at] == "5"
    assert strip.marks.count("5") == 1


def test_growth_gaps_are_blank_and_nothing_is_drawn_for_still_series() -> None:
    """Values measured at a cadence leave blanks; a run that does not grow has no picture."""
    rows = 200
    grown = np.where(np.arange(rows) < 175, 1.0, 1e4)
    run = make_run(weights={"fc.weight": every(10, grown)})
    growth = growth_before(run, 195, None)
    assert growth is not None
    assert set(growth.strips[0].marks) == {" ", ".", "4"}
    assert growth_before(make_run(loss=np.ones(50)), None, None) is None
    assert growth_before(make_run(loss=[]), None, None) is None


@pytest.mark.parametrize("step", [0, 1, 5])
def test_growth_survives_trouble_at_the_very_beginning(step: int) -> None:
    """There is no usual level before step 0."""
    values = np.full(20, 1.0)
    values[step:] = np.nan
    assert growth_before(make_run(loss=values), step, None) is None


def test_labels_tell_runs_apart() -> None:
    """Batch sizes first, then file names, then paths, then numbers."""

    def labels(*named: tuple[str, int]) -> list[str]:
        pairs = [healthy_pair(batch, name=name) for name, batch in named]
        return [case.label for case in build_comparison(pairs).cases]

    assert labels(("a.h5", 1), ("b.h5", 32)) == ["bs=1", "bs=32"]
    assert labels(("a.h5", 1), ("b.h5", 1)) == ["a", "b"]
    assert labels(("x/a.h5", 1), ("y/a.h5", 1)) == ["x/a.h5", "y/a.h5"]
    assert labels(("a.h5", 1), ("a.h5", 1)) == ["1 a.h5", "2 a.h5"]


def test_pace_prefers_whole_epochs_and_else_extrapolates() -> None:
    """Median of whole epochs; a part is scaled to the updates of a whole one and marked."""

    def case(*epochs: Epoch) -> tuple[float | None, bool, int | None]:
        found = build_comparison([healthy_pair(32, epochs=epochs)]).cases[0]
        return found.seconds, found.estimated, found.updates

    whole = [Epoch(i, 45 * i, 45, s, 1.0, 0.5, 0.5) for i, s in ((1, 3.0), (2, 1.0), (3, 2.0))]
    part = Epoch(4, 150, 15, 0.5, 1.0, 0.5, 0.5)
    assert case(*whole, part) == (2.0, False, 45)
    assert case(part) == (1.5, True, 45)
    assert case() == (None, False, 45)


def test_differences_in_words() -> None:
    """Only what someone chose is named: derived values and the facts of a data set are not."""

    def told(first: dict[str, Any], second: dict[str, Any]) -> str:
        runs: list[Run] = [
            healthy_pair(config=config, name=f"{i}")[0] for i, config in enumerate((first, second))
        ]
        comparison = build_comparison([(run, healthy_pair()[1]) for run in runs])
        return comparison.difference

    end = " All of them are healthy."
    same = {"lr": 0.1, "case": "a", "label_counts": [1, 2]}
    assert (
        told(same, same | {"case": "b", "label_counts": [2, 1]})
        == "The recorded settings are the same." + end
    )
    assert told(same, same | {"lr": 0.2}) == "Only the lr (0.1, 0.2) differs." + end
    assert (
        told(same | {"batch_size": None}, same | {"batch_size": 1, "lr": 0.2})
        == "The lr (0.1, 0.2) and batch size (full, 1) differ." + end
    )
    mnist = {"dataset": "mnist", "train_size": 60000}
    assert told(mnist, {"dataset": "digits", "train_size": 1437}) == (
        "Only the dataset (mnist, digits) differs." + end
    )


def test_one_class_reading_never_exceeds_the_evidence() -> None:
    """The reason comes from a finding, or from a NaN loss; without either only the fact is told."""
    run, diagnosis = diverged_pair()

    def reading(epoch: Epoch, *findings: Finding) -> str:
        changed = replace(run, epochs=(epoch,))
        return build_comparison([(changed, replace(diagnosis, findings=findings))]).cases[0].reading

    epoch = Epoch(1, 45, 45, 1.0, 2.3, 0.1, 0.018, confusion(0, column=3))
    assert reading(epoch) == "all 360 predictions are class 3"
    argmax = Finding("NS201", "argmax-of-nan", Severity.ERROR, 9, "logits are NaN")
    assert reading(epoch, argmax) == "all 360 predictions are class 3: logits are NaN"
    assert "argmax of an all-NaN row is index 0" in reading(
        replace(epoch, loss=float("nan"), confusion=((9, 0), (4, 0)))
    )
    assert reading(replace(epoch, confusion=confusion(35))) == ""
    assert reading(replace(epoch, confusion=())) == ""


def test_endings_name_every_case_that_is_not_healthy() -> None:
    """A suspicious case is said to be suspicious, not to have diverged."""
    run, diagnosis = healthy_pair(1)
    odd = replace(diagnosis, verdict=Verdict.SUSPICIOUS)
    told = build_comparison([healthy_pair(32), (run, odd)]).difference
    assert told.endswith("bs=1 is suspicious; the rest is healthy.")


def test_endings_claim_no_health_that_was_not_seen() -> None:
    """A run that is still written or was ended is healthy only so far."""
    cut = [healthy_pair(batch, state=state) for batch, state in ((1, "live"), (32, "killed"))]
    told = build_comparison([*cut, healthy_pair(64)]).difference
    end = "bs=1 is healthy so far; bs=32 was healthy until it was killed; the rest is healthy."
    assert told.endswith(end)
    assert not build_comparison(cut).difference.endswith("healthy.")


def test_comparison_of_nothing() -> None:
    """No run, no case."""
    assert build_comparison([]).cases == ()
