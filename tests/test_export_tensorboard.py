"""Runs exported for TensorBoard, read back by its own reader."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanscope import export
from nanscope.cli import cli
from nanscope.errors import UsageError
from nanscope.run import Run, is_missing
from tests.store.files import append_pattern, writing
from tests.test_export import small_run

accumulators = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
)


def read(folder: Path) -> Any:
    """All that TensorBoard's reader finds in the folder of a run."""
    reader = accumulators.EventAccumulator(str(folder), accumulators.STORE_EVERYTHING_SIZE_GUIDANCE)
    return reader.Reload()


def written(run: Run, folder: Path) -> Path:
    """The folder of the run, with its event file."""
    path = export.event_file(run, folder)
    path.parent.mkdir(parents=True)
    with path.open("wb") as out:
        export.write_tensorboard(run, export.select(run), out, lambda _done, _all: None)
    return path.parent


def record(path: Path, rows: int) -> None:
    """A run file of two columns."""
    with writing(path, 2) as writer:
        append_pattern(writer, 0, rows, 2)


def test_every_series_comes_back(tmp_path: Path) -> None:
    """Each value that was measured, bit by bit, NaN and infinities too, at its step and time; no other."""
    run = small_run()
    reader = read(written(run, tmp_path))
    tags = ["fc1.output/l2", "fc1.output/abs_max", "fc2.weight/l2", "loss"]
    assert sorted(reader.Tags()["scalars"]) == sorted(tags)
    for index, tag in enumerate(tags):
        values = run.source.column(index, 0, len(run))
        measured = ~is_missing(values)
        points = reader.Scalars(tag)
        assert [point.step for point in points] == run.steps[measured].tolist()
        found = np.array([point.value for point in points], np.float32)
        np.testing.assert_array_equal(found, values[measured])
        times = run.source.times(0, len(run))[measured] + run.header.created
        assert [point.wall_time for point in points] == times.tolist()
    assert {"nan", "inf", "-inf"} <= {str(point.value) for point in reader.Scalars("loss")}


def test_a_scalar_with_the_name_of_a_series(tmp_path: Path) -> None:
    """Neither hides the other: the second gets a number."""
    run = small_run()
    names = [column.stat for column in run.header.columns]
    renamed = tuple(
        type(column)(column.site, "fc1.output/l2" if column.stat == "loss" else column.stat)
        for column in run.header.columns
    )
    assert "loss" in names
    twin = Run(run.name, type(run.header)(renamed), run.source)
    assert "fc1.output/l2_2" in read(written(twin, tmp_path)).Tags()["scalars"]


def test_the_command(tmp_path: Path) -> None:
    """The run is a subfolder of the log folder, every point is shown, nothing is overwritten."""
    record(tmp_path / "run.h5", 300)
    words = [sys.executable, "-m", "nanscope", "export", "run.h5", "--to", "tensorboard", "-o", "logs"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "tensorboard --logdir logs --samples_per_plugin scalars=0"
    reader = read(tmp_path / "logs" / "run")
    tags = reader.Tags()["scalars"]
    assert tags
    assert all(len(reader.Scalars(tag)) == 300 for tag in tags)
    again = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "exists and was left alone" in again.stderr
    forced = subprocess.run([*words, "--force"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert forced.returncode == 0, forced.stderr
    assert len(list((tmp_path / "logs" / "run").iterdir())) == 1


def test_no_torch_is_loaded(tmp_path: Path) -> None:
    """A laptop without torch can export."""
    record(tmp_path / "run.h5", 10)
    code = (
        "import sys; from nanscope.cli import cli; "
        "cli(['export', 'run.h5', '--to', 'tensorboard', '-o', 'logs'], standalone_mode=False); "
        "sys.exit('torch' in sys.modules or 'tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_without_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line with the command that helps, and no folder is left behind."""

    def refuse(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(export, "import_module", refuse)
    record(tmp_path / "run.h5", 10)
    (tmp_path / "there").mkdir()
    words = [str(tmp_path / "run.h5"), "--to", "tensorboard", "-o", str(tmp_path / "there" / "logs")]
    with pytest.raises(UsageError, match=r"pip install 'nanscope\[tensorboard\]'"):
        cli(["export", *words], standalone_mode=False)
    assert not list((tmp_path / "there").iterdir())
