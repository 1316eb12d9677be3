"""Write, then read: the same bits come back."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanscope.run import MISSING, Column, Header, is_missing
from nanscope.store.reader import open_run
from nanscope.store.writer import RunWriter
from nanscope.values import Kind, Site
from tests.store.files import BLOCK, RING, append_pattern, assert_pattern, bits, layout, pattern, writing

SPECIAL = np.array([MISSING, np.nan, np.inf, -np.inf, -0.0, 1e-45, 3.4e38], np.float32)

printable = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | printable,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(printable, inner, max_size=3),
    max_leaves=8,
)
sites = st.builds(
    Site, printable, st.sampled_from(Kind), printable, st.integers(-1, 1000), printable, st.integers(0, 2**40)
)
columns_of = st.lists(
    st.builds(Column, sites, printable) | st.builds(Column, st.none(), printable), min_size=1
)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    rows=st.integers(0, 3 * RING),
    columns=st.integers(1, 4),
    closed=st.booleans(),
    ends=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_rows_come_back_bit_for_bit(
    rows: int, columns: int, *, closed: bool, ends: tuple[float, float]
) -> None:
    """Every row, whole and in slices, from blocks and from the ring, of a live and of a closed file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.h5"
        with writing(path, columns) as writer:
            append_pattern(writer, 0, rows, columns)
            if closed:
                writer.close()
            run = open_run(path)
        assert run.state == ("finished" if closed else "live")
        assert run.lost == ()
        assert_pattern(run, np.arange(rows))
        start, stop = sorted(round(end * rows) for end in ends)
        expected = bits(pattern(start, stop, columns))
        np.testing.assert_array_equal(bits(run.source.block(start, stop)), expected)
        for index in range(columns):
            np.testing.assert_array_equal(bits(run.source.column(index, start, stop)), expected[:, index])
        np.testing.assert_array_equal(run.source.steps(start, stop), 3 * np.arange(start, stop))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    columns=columns_of,
    config=st.dictionaries(printable, json_values, max_size=3),
    model=st.lists(st.dictionaries(printable, json_values, max_size=2), max_size=2),
    created=st.floats(0, 1e10),
)
def test_header_comes_back(
    columns: list[Column], config: dict[str, object], model: list[dict[str, object]], created: float
) -> None:
    """Columns, sites with all their attributes, config, environment, model and creation time."""
    header = Header(tuple(columns), config, {"seed": 0, "lr": 0.1}, tuple(model), created)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.h5"
        RunWriter.create(path, header, layout=layout(len(columns))).close()
        assert open_run(path).header == header


@pytest.mark.parametrize("columns", [3, 1100])
def test_special_values_survive_ring_and_blocks(tmp_path: Path, columns: int) -> None:
    """MISSING, NaN, infinities, -0 and subnormals keep their bits, in row mode and in batch mode."""
    table = np.resize(SPECIAL, (BLOCK + 5, columns))
    with writing(tmp_path / "run.h5", columns) as writer:
        for i, row in enumerate(table):
            writer.append(i, 0.0, row)
        writer.close()
        run = open_run(tmp_path / "run.h5")
    np.testing.assert_array_equal(bits(run.source.block(0, len(table))), bits(table))
    np.testing.assert_array_equal(is_missing(run.source.block(0, len(table))), is_missing(table))
