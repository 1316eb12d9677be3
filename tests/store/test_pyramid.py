"""The pyramid against a slow oracle in float64."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nanscope.run import MISSING, Floats, Overview, is_missing
from nanscope.store.pyramid import FINITE, HIGH, INF, LAST, LOW, MEAN, NAN, coarsen, pyramid, summarise
from nanscope.store.reader import open_run
from tests.store.files import BLOCK, RING, bits, writing

values = st.floats(width=32) | st.just(float("nan"))
tables = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=20), elements=values)


def oracle(bucket: Floats) -> dict[int, float]:
    """What one bucket of one column must say; bucket has shape (rows,)."""
    missing = is_missing(bucket)
    finite = [float(v) for v in bucket if np.isfinite(v)]
    return {
        LOW: min(finite, default=np.nan),
        HIGH: max(finite, default=np.nan),
        MEAN: np.mean(finite, dtype=np.float64) if finite else np.nan,
        FINITE: len(finite),
        NAN: int(np.sum(np.isnan(bucket) & ~missing)),
        INF: int(np.sum(np.isinf(bucket))),
    }


def assert_summary(summary: Floats, table: Floats, bucket: int) -> None:
    """The summary says of every bucket of every column what the oracle says."""
    assert summary.shape[2] == -(-len(table) // bucket)
    for column in range(table.shape[1]):
        for cell in range(summary.shape[2]):
            rows = table[cell * bucket : (cell + 1) * bucket, column]
            found = summary[column, :, cell]
            for quantity, expected in oracle(rows).items():
                # a mean of cancelling values is as exact as their size and float32's smallest step allow
                size = float(np.max(np.abs(rows[np.isfinite(rows)]), initial=0))
                np.testing.assert_allclose(found[quantity], expected, rtol=1e-6, atol=3e-7 * size + 3e-45)
            assert bits(found[LAST : LAST + 1]) == bits(rows[-1:])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(table=tables, bucket=st.integers(1, 7), factor=st.integers(1, 4), missing=st.data())
def test_summaries_against_the_oracle(
    table: Floats, bucket: int, factor: int, missing: st.DataObject
) -> None:
    """Fine and coarse buckets, with NaN, infinities, huge values and MISSING among the rows."""
    table[missing.draw(hnp.arrays(bool, table.shape))] = MISSING
    fine = summarise(table, bucket)
    assert_summary(fine, table, bucket)
    assert_summary(coarsen(fine, factor), table, bucket * factor)


def test_every_level_of_a_block() -> None:
    """The levels are made of each other and still say what the rows say."""
    table = np.random.default_rng(0).standard_normal((1024, 2)).astype(np.float32)
    table[100:300, 0] = np.nan
    table[5, 1] = np.inf
    levels = {"a": 64, "b": 512, "c": 1024}
    for name, summary in pyramid(table, levels).items():
        assert_summary(summary, table, levels[name])


def test_largest_values_do_not_overflow_the_mean() -> None:
    """The sum of a bucket of float32's largest values is beyond float32, their mean is not."""
    table = np.full((128, 1), np.finfo(np.float32).max)
    assert coarsen(summarise(table, 64), 2)[0, MEAN, 0] == np.finfo(np.float32).max


@pytest.mark.parametrize("rows", [0, 1, BLOCK, 2 * BLOCK + 1, 3 * RING + 17])
@pytest.mark.parametrize("bucket", [1, 10, BLOCK, 3 * BLOCK, 10_000])
def test_overview_of_a_file(tmp_path: Path, rows: int, bucket: int) -> None:
    """From blocks and ring together, at any zoom, the last bucket partly filled."""
    table = np.random.default_rng(rows).standard_normal((rows, 2)).astype(np.float32)
    table[rows // 2 : rows // 2 + 3, 1] = [np.nan, np.inf, MISSING][: len(table[rows // 2 : rows // 2 + 3])]
    with writing(tmp_path / "run.h5", 2) as writer:
        for i, row in enumerate(table):
            writer.append(i, 0.0, row)
    found = open_run(tmp_path / "run.h5").source.overview(1, bucket)
    assert bucket / 2 <= found.bucket <= bucket * 1.5
    assert_overview(found, table[:, 1])


def assert_overview(found: Overview, column: Floats) -> None:
    """Bucket by bucket what the rows say."""
    assert len(found.low) == -(-len(column) // found.bucket)
    for cell in range(len(found.low)):
        expected = oracle(column[cell * found.bucket : (cell + 1) * found.bucket])
        np.testing.assert_array_equal(found.low[cell], np.float32(expected[LOW]))
        np.testing.assert_array_equal(found.high[cell], np.float32(expected[HIGH]))
        np.testing.assert_allclose(found.mean[cell], expected[MEAN], rtol=1e-5, atol=1e-6)
        assert found.nonfinite[cell] == expected[NAN] + expected[INF]
