"""Exported tables, read back by other programs and compared bit by bit."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

from nanscope import export
from nanscope.errors import NotRecordedError, UsageError
from nanscope.run import MISSING, Column, Header, Run, is_missing
from nanscope.values import Kind, Site
from tests.builders import ArraySource
from tests.store.files import bits

ODD = np.array([0.1, -0.0, np.nan, np.inf, -np.inf, MISSING, 1e-45, 3.4028235e38, 1 / 3, 7], np.float32)


def table(columns: dict[Column, np.ndarray], steps: np.ndarray | None = None) -> Run:
    """A run of these columns; the time of a step is a third of its number."""
    rows = len(next(iter(columns.values())))
    numbers = np.arange(rows) if steps is None else np.asarray(steps)
    return Run("run.h5", Header(tuple(columns)), ArraySource(tuple(columns.values()), numbers, numbers / 3))


def small_run() -> Run:
    """Two stats of a site, one of another, a scalar and a spare column; steps with a gap."""
    site, other = Site("fc1", Kind.OUTPUT), Site("fc2.weight", Kind.WEIGHT)
    names = [Column(site, "l2"), Column(site, "abs_max"), Column(other, "l2"), Column(None, "loss")]
    columns = {name: np.roll(ODD, i) for i, name in enumerate(names)}
    columns[Column(None, "")] = np.zeros(len(ODD), np.float32)
    return table(columns, np.arange(len(ODD)) + 5 * (np.arange(len(ODD)) > 3))


def as_csv(run: Run, selection: export.Selection | None = None) -> list[list[str]]:
    """What a CSV reader makes of the run."""
    out = io.BytesIO()
    export.write_csv(run, selection or export.select(run), out, lambda _done, _all: None)
    return list(csv.reader(io.StringIO(out.getvalue().decode(), newline="")))


def number_of(cell: str) -> np.float32:
    """The float32 that a cell stands for."""
    return np.float32(cell) if cell else MISSING


def test_every_value_comes_back_from_csv() -> None:
    """NaN, infinities and not-measured are told apart; steps, times and finite values are exact."""
    run = small_run()
    names, *rows = as_csv(run)
    assert names == ["step", "time", "fc1.output.l2", "fc1.output.abs_max", "fc2.weight.l2", "loss"]
    assert [int(row[0]) for row in rows] == run.steps.tolist()
    assert [float(row[1]) for row in rows] == run.source.times(0, len(run)).tolist()
    found = np.array([[number_of(cell) for cell in row[2:]] for row in rows], np.float32)
    expected = run.source.block(0, len(run))[:, :4]
    np.testing.assert_array_equal(is_missing(found), is_missing(expected))
    np.testing.assert_array_equal(found, expected)
    assert {"nan", "inf", "-inf", ""} <= {cell for row in rows for cell in row}


@settings(max_examples=50, deadline=None, derandomize=True)
@given(patterns=hnp.arrays(np.uint32, 20))
def test_any_float32_comes_back_from_csv(patterns: np.ndarray) -> None:
    """Arbitrary bits: the same finite value, or NaN for NaN, or empty for not measured."""
    values = patterns.view(np.float32)
    _, *rows = as_csv(table({Column(None, "x"): values}))
    found = np.array([number_of(row[2]) for row in rows], np.float32)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(values))
    np.testing.assert_array_equal(bits(found[~np.isnan(found)]), bits(values[~np.isnan(values)]))
    np.testing.assert_array_equal(is_missing(found), is_missing(values))


def test_every_value_comes_back_from_parquet(tmp_path: Path) -> None:
    """NaN is a value, not measured is null, types are as documented."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    run = small_run()
    with (tmp_path / "run.parquet").open("wb") as out:
        export.write_parquet(run, export.select(run), out, lambda _done, _all: None)
    found = parquet.read_table(tmp_path / "run.parquet")
    assert found.schema.types == [arrow.int64(), arrow.float64(), *[arrow.float32()] * 4]
    assert found.column("step").to_pylist() == run.steps.tolist()
    assert found.column("time").to_pylist() == run.source.times(0, len(run)).tolist()
    for i, name in enumerate(found.column_names[2:]):
        expected = run.source.column(i, 0, len(run))
        column = found.column(name).combine_chunks()
        np.testing.assert_array_equal(column.is_null().to_numpy(zero_copy_only=False), is_missing(expected))
        values = column.fill_null(float(np.float32(0))).to_numpy()
        np.testing.assert_array_equal(values, np.where(is_missing(expected), np.float32(0), expected))


@pytest.mark.parametrize("to", ["csv", "parquet"])
def test_windows_join_without_a_seam(to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many windows give the same table as one, and progress ends with all rows."""
    if to == "parquet":
        pytest.importorskip("pyarrow")
    values = np.arange(1000, dtype=np.float32)
    run = table({Column(None, "x"): values})
    reports: list[tuple[int, int]] = []
    monkeypatch.setattr(export, "_CSV_VALUES", 1)
    monkeypatch.setattr(export, "_PARQUET_VALUES", 1)
    out = io.BytesIO()
    export.WRITERS[to](run, export.select(run), out, lambda done, total: reports.append((done, total)))
    if to == "csv":
        found = [float(line.split(b",")[2]) for line in out.getvalue().splitlines()[1:]]
    else:
        read = pytest.importorskip("pyarrow.parquet").read_table(io.BytesIO(out.getvalue()))
        found = read.column("x").to_pylist()
    np.testing.assert_array_equal(found, values)
    assert len(reports) > 10
    assert reports[-1] == (1000, 1000)
    assert reports == sorted(reports)


SELECTIONS = {
    ("fc1.output",): ["fc1.output.l2", "fc1.output.abs_max"],
    ("*.l2",): ["fc1.output.l2", "fc2.weight.l2"],
    ("fc*", "loss"): ["fc1.output.l2", "fc1.output.abs_max", "fc2.weight.l2", "loss"],
    ("loss",): ["loss"],
}


@pytest.mark.parametrize("patterns", SELECTIONS)
def test_sites_by_pattern(patterns: tuple[str, ...]) -> None:
    """A pattern takes sites, series and scalars, in the order of the run; the values are theirs."""
    run = small_run()
    selection = export.select(run, patterns)
    assert list(selection.names) == SELECTIONS[patterns]
    whole = as_csv(run)
    chosen = [whole[0].index(name) for name in ("step", "time", *selection.names)]
    assert as_csv(run, selection) == [[row[i] for i in chosen] for row in whole]


def test_a_pattern_that_fits_nothing() -> None:
    """It is named, also beside one that fits."""
    with pytest.raises(NotRecordedError, match=r"fc9.*nanscope info"):
        export.select(small_run(), ["loss", "fc9"])


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ((None, None), [0, 1, 2, 3, 9, 10, 11, 12, 13, 14]),
        ((2, 10), [2, 3, 9]),
        ((4, None), [9, 10, 11, 12, 13, 14]),
        ((None, 1), [0]),
    ],
)
def test_steps_are_numbers_of_steps(asked: tuple[int | None, int | None], found: list[int]) -> None:
    """Not of rows: where steps are missing in the run, none is made up."""
    run = small_run()
    _, *rows = as_csv(run, export.select(run, steps=asked))
    assert [int(row[0]) for row in rows] == found


def test_steps_that_the_run_does_not_have() -> None:
    """Refused with those that it has."""
    with pytest.raises(UsageError, match="its steps are 0 to 14"):
        export.select(small_run(), steps=(100, None))


def test_steps_in_the_wrong_order() -> None:
    """Refused rather than answered with nothing."""
    with pytest.raises(UsageError, match="FIRST:END"):
        export.select(small_run(), steps=(7, 7))


def test_names_stay_apart() -> None:
    """Scalars called like another column, or like what a renamed one would be, get a number."""
    names = ["step", "x", "x_2", "x", "time", "x", "step_2"]
    run = table({Column(Site(str(i), Kind.INPUT), "l2"): np.zeros(1, np.float32) for i in range(len(names))})
    columns = tuple(Column(None, name) for name in names)
    run = Run("run.h5", Header(columns), run.source)
    found = as_csv(run)[0]
    assert len(set(found)) == len(found) == 2 + len(names)
    assert found[:5] == ["step", "time", "step_2", "x", "x_2"]


@pytest.mark.parametrize("name", ["=1+1", "+A1", "-cmd|' /C calc'!A0", "@SUM(A1)", " =1", 'a","=1'])
def test_names_are_no_formulas(name: str) -> None:
    """A spreadsheet runs a cell that begins with = + - or @; a name from a foreign file must not be one."""
    found = as_csv(table({Column(None, name): np.zeros(1, np.float32)}))[0]
    assert len(found) == 3
    assert found[2].lstrip()[0] not in "=+-@"
    assert found[2].removeprefix("'") == name


def test_parquet_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line with the command that installs it."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    run = small_run()
    with pytest.raises(UsageError, match=r"pip install 'nanscope\[parquet\]'"):
        export.write_parquet(run, export.select(run), io.BytesIO(), lambda _done, _all: None)
