"""A case refuses what cannot be trained, and names itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nanscope.errors import UsageError
from nanscope.experiment import cases, data, model
from nanscope.experiment.cases import Case, batch_size_of

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ({"batch_size": 0}, "batch size 0"),
        ({"batch_size": -3}, "batch size -3"),
        ({"lr": 0.0}, "lr 0.0"),
        ({"lr": -0.1}, "lr -0.1"),
        ({"lr": NAN}, "lr nan"),
        ({"lr": INF}, "lr inf"),
        ({"momentum": 1.0}, "momentum 1.0"),
        ({"momentum": -0.1}, "momentum -0.1"),
        ({"momentum": NAN}, "momentum nan"),
        ({"momentum": 0.9, "optimizer": "adam"}, "adam takes no momentum"),
        ({"optimizer": "sdg"}, "'sdg'"),
        ({"dataset": "cifar"}, "'cifar'"),
        ({"activation": "relu6"}, "'relu6'"),
        ({"hidden": (1024, 0)}, "hidden width 0"),
        ({"epochs": 0}, "epochs 0"),
        ({"aftermath": -1}, "aftermath -1"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 2**63}, "seed 9223372036854775808"),
    ],
)
def test_impossible_settings_are_refused(setting: dict[str, Any], word: str) -> None:
    """Each says in one line which value is wrong and what to do."""
    with pytest.raises(UsageError) as caught:
        Case(**setting)
    assert word in caught.value.message
    assert caught.value.hint
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "setting",
    [
        {"batch_size": 1},
        {"lr": 1e-12},
        {"lr": 1e6},
        {"momentum": 0.99},
        {"momentum": 0.9, "optimizer": "rmsprop"},
        {"hidden": ()},
        {"aftermath": 0},
        {"seed": 2**63 - 1},
    ],
)
def test_extreme_but_possible_settings_are_taken(setting: dict[str, Any]) -> None:
    """The near misses of the test above."""
    case = Case(**setting)
    assert {name: getattr(case, name) for name in setting} == setting


@pytest.mark.parametrize(("text", "size"), [("1", 1), ("1024", 1024), ("007", 7), ("full", None)])
def test_batch_size_is_read_from_text(text: str, size: int | None) -> None:
    """A number, or the word for all rows."""
    assert batch_size_of(text) == size


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "", "Full", "many", "\u0661", "9" * 5000])
def test_other_texts_are_no_batch_size(text: str) -> None:
    """Anything else is one clear line, digits of other scripts and endless ones included."""
    with pytest.raises(UsageError, match="is no batch size"):
        batch_size_of(text)


@pytest.mark.parametrize(
    ("size", "label", "path", "updates", "rows"),
    [
        (1, "bs=1", "runs/digits-bs1.h5", 1437, 1),
        (32, "bs=32", "runs/digits-bs32.h5", 45, 32),
        (1437, "bs=1437", "runs/digits-bs1437.h5", 1, 1437),
        (9999, "bs=9999", "runs/digits-bs9999.h5", 1, 1437),
        (None, "full batch", "runs/digits-bsfull.h5", 1, 1437),
    ],
)
def test_case_names_and_counts(size: int | None, label: str, path: str, updates: int, rows: int) -> None:
    """Label, run file and updates per epoch; the last, smaller batch is an update too."""
    case = Case(batch_size=size)
    assert (case.label, case.run_path, case.updates(1437), case.rows(1437)) == (
        label,
        Path(path),
        updates,
        rows,
    )


def test_config_is_json_with_the_case_and_the_data() -> None:
    """The settings survive JSON unchanged, a null batch size for the full batch included."""
    case = Case(batch_size=None, momentum=0.5, hidden=(8,))
    config = case.config(data.load_dataset(case))
    assert json.loads(json.dumps(config, allow_nan=False)) == config
    expected = {
        "case": "full batch",
        "batch_size": None,
        "momentum": 0.5,
        "hidden": [8],
        "updates_per_epoch": 1,
    }
    assert expected.items() <= config.items()
    assert (config["train_size"], config["test_size"], config["classes"]) == (1437, 360, 10)
    assert sum(config["label_counts"]) == config["train_size"]


def test_every_choice_can_be_built() -> None:
    """The names that a case takes are the ones that data and model know: none is forgotten."""
    assert set(cases.DATASETS) == set(data.LOADERS)
    assert set(cases.OPTIMIZERS) == set(model.OPTIMIZERS)
    assert set(cases.ACTIVATIONS) == set(model.ACTIVATIONS)


def test_cases_need_no_torch() -> None:
    """The command line can list and check choices without the seconds that torch takes to load."""
    program = "import sys, nanscope.experiment.cases; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
