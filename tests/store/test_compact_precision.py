"""Compaction with 12 bits of mantissa: what is rounded, what stays exact, and what that may not change."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from nanscope.diagnosis import diagnose
from nanscope.errors import UsageError
from nanscope.run import MISSING, SCALARS, STATS, Column, Floats, Header
from nanscope.store.compaction.codec import rounded
from nanscope.store.compaction.compact import Precision, compact
from nanscope.store.compaction.draft import may_be_rounded
from nanscope.store.reader import open_run
from nanscope.store.verification.verify import verify
from nanscope.store.writer import RunWriter
from nanscope.values import Kind, Site
from tests.store.compaction import record, small
from tests.store.files import bits

FC, WEIGHT, GRAD = (
    Site("fc", Kind.OUTPUT, "Linear", 0, "float32"),
    Site("fc.weight", Kind.WEIGHT, "Linear", 0, "float32", 100),
    Site("fc.weight", Kind.GRAD, "Linear", 0, "float32", 100),
)


def training(path: Path, rows: int = 1000) -> Floats:
    """A run whose weights learn so slowly that 12 bits would not show it; returns its rows."""
    columns = (
        Column(FC, "l2"),
        Column(WEIGHT, "l2"),
        Column(GRAD, "l2"),
        Column(FC, "nan_count"),
        *(Column(None, name) for name in ("loss", "lr", "samples", "steps_of_my_own")),
    )
    rng, index = np.random.default_rng(0), np.arange(rows)
    table = np.column_stack(
        [
            *(rng.lognormal(0, 0.1, rows), 10 + index * 1e-6, rng.lognormal(0, 0.1, rows)),
            *(np.zeros(rows), 2 + rng.normal(0, 0.1, rows), np.full(rows, 1e-5)),
            *(np.ones(rows), 2**20 + index),
        ]
    ).astype(np.float32)
    table[5, 0], table[6, 0], table[7, 0], table[8, 0] = MISSING, np.nan, np.inf, 3.4028235e38
    writer = RunWriter.create(path, Header(columns), layout=small(len(columns)))
    for i, row in enumerate(table):
        writer.append(i, i / 1000, row)
    writer.close()
    return table


def test_only_norms_and_the_loss_are_rounded(tmp_path: Path) -> None:
    """Norms of activations and gradients, and the loss; all else keeps every bit."""
    path = tmp_path / "run.h5"
    table = training(path)
    compact(path, precision="12bit")
    found = open_run(path).source.block(0, len(table))
    for index in (0, 2, 4):
        np.testing.assert_array_equal(bits(found[:, index]), bits(rounded(table[:, index])))
    for index in (1, 3, 5, 6, 7):
        np.testing.assert_array_equal(bits(found[:, index]), bits(table[:, index]))
    assert not np.array_equal(found[:, 0], table[:, 0])
    ordinary = np.isfinite(table[:, 0])
    assert (np.abs(found[ordinary, 0] / table[ordinary, 0].astype(np.float64) - 1) <= 2.0**-13).all()
    assert np.isfinite(found[ordinary, 0]).all()


def test_every_stat_and_scalar_is_decided_on() -> None:
    """What is added to the recorder stays exact until somebody says otherwise here."""
    lossy = {stat for stat in STATS if may_be_rounded(Column(FC, stat))}
    assert lossy == {"l2", "abs_max"}
    assert not any(may_be_rounded(Column(WEIGHT, stat)) for stat in STATS)
    scalars = {
        name for name in (*SCALARS, "predicted_3", "accuracy", "") if may_be_rounded(Column(None, name))
    }
    assert scalars == {"loss", "logits_abs_max", "logits_spread", "logits_margin"}


@pytest.mark.parametrize("bucket", [1, 10, 64, 200, 512])
def test_the_overview_fits_the_rounded_values(tmp_path: Path, bucket: int) -> None:
    """Lowest and highest are those of the rounded values; the mean lies between them; counts are exact."""
    path = tmp_path / "run.h5"
    table = training(path)
    compact(path, precision="12bit")
    source = open_run(path).source
    for index in range(table.shape[1]):
        view, values = source.overview(index, bucket), source.column(index, 0, len(table))
        stops = [*view.starts[1:], len(table)]
        for i, (start, stop) in enumerate(zip(view.starts, stops, strict=True)):
            part = values[start:stop]
            finite = part[np.isfinite(part)]
            assert (view.low[i], view.high[i]) == (finite.min(), finite.max()) if finite.size else True
            assert view.low[i] <= view.mean[i] <= view.high[i] if finite.size else np.isnan(view.mean[i])
            exact = table[start:stop, index]
            gone = np.isnan(exact) & (bits(exact) != bits(np.array(MISSING)))
            assert view.nonfinite[i] == np.count_nonzero(gone | np.isinf(exact))


def test_the_diagnosis_is_the_same(tmp_path: Path) -> None:
    """A weight that learns slowly is not frozen because its norm was rounded."""
    path = tmp_path / "run.h5"
    training(path)
    before = [finding.rule for finding in diagnose(open_run(path)).findings]
    compact(path, precision="12bit")
    assert [finding.rule for finding in diagnose(open_run(path)).findings] == before
    assert "NS305" not in before


def test_the_file_says_it(tmp_path: Path) -> None:
    """In its attributes; and it is smaller than the exact one."""
    exact, lossy = tmp_path / "exact.h5", tmp_path / "lossy.h5"
    for path in (exact, lossy):
        training(path, 20_000)
    larger, smaller = compact(exact), compact(lossy, precision="12bit")
    with h5py.File(exact) as one, h5py.File(lossy) as other:
        assert (one.attrs["precision"], other.attrs["precision"]) == ("exact", "12bit")
    assert smaller.after_bytes < 0.85 * larger.after_bytes


@pytest.mark.parametrize("precision", [None, "12bit"])
def test_verify_finds_it_sound(tmp_path: Path, precision: Precision | None) -> None:
    """The independent check of chunks, places and summaries agrees, also on rounded values."""
    path = tmp_path / "run.h5"
    training(path)
    compact(path, precision=precision)
    assert verify(path, lambda _done, _total: None).problems == ()


def test_another_precision_is_refused(tmp_path: Path) -> None:
    """One clear error."""
    path = tmp_path / "run.h5"
    record(path, 10)
    with pytest.raises(UsageError, match="there is no precision 8bit: choose 12bit"):
        compact(path, precision="8bit")  # type: ignore[arg-type] # on purpose
