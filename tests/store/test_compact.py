"""Compaction: everything comes back, bit for bit, whatever the run."""

import stat
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray
from hypothesis import given, settings
from hypothesis import strategies as st

from nanscope.errors import UsageError
from nanscope.run import MISSING_BITS, Column, Header
from nanscope.store.compaction.compact import compact
from nanscope.store.layout import Layout
from nanscope.store.reader import open_run
from nanscope.store.writer import RunWriter
from nanscope.values import Kind, Site
from tests.store.compaction import (
    COLUMNS,
    HEADER,
    append,
    assert_same,
    facts,
    forsake,
    grow,
    note,
    record,
    small,
    snapshot_of,
)
from tests.store.files import BLOCK, RING, append_pattern, bits, pattern


@pytest.mark.parametrize("rows", [0, 1, 15, BLOCK, BLOCK + 1, RING, 3 * RING + 17, 4096, 4097, 9000])
def test_everything_comes_back(tmp_path: Path, rows: int) -> None:
    """Rows, steps, times, overviews, header, events, epochs, state: of a run of any length."""
    path = tmp_path / "run.h5"
    record(path, rows)
    expected, before = facts(path), snapshot_of(open_run(path))
    done = compact(path)
    assert done.done
    assert done.rows == rows
    assert facts(path) == expected
    assert_same(before, snapshot_of(open_run(path)))
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.h5"]


@pytest.mark.parametrize("layout", [small(finest=64), small(finest=16), Layout(8, 1024, 4096, 64, 64, 512)])
def test_any_pyramid_comes_back(tmp_path: Path, layout: Layout) -> None:
    """Files with one, two or three levels of summaries, coarse and fine."""
    path = tmp_path / "run.h5"
    record(path, 5000, layout=layout)
    before = snapshot_of(open_run(path))
    compact(path)
    assert_same(before, snapshot_of(open_run(path)))


def test_a_killed_run_stays_killed(tmp_path: Path) -> None:
    """Rows that only the ring holds are in it, and what the reader says of the end stays said."""
    path = tmp_path / "run.h5"
    writer = RunWriter.create(path, HEADER, layout=small(), mode="row")
    append(writer, 0, RING + 20)
    note(writer)
    copy = tmp_path / "copy.h5"
    copy.write_bytes(path.read_bytes())
    writer.close()
    forsake(copy)
    expected, before = facts(copy), snapshot_of(open_run(copy))
    assert "killed" in expected
    compact(copy)
    assert facts(copy) == expected
    assert_same(before, snapshot_of(open_run(copy)))


def test_thinned_rows_keep_their_summaries(tmp_path: Path) -> None:
    """Where the values are gone the overview still shows what they were, and it is said where that is."""
    path = tmp_path / "run.h5"
    record(path, 40 * BLOCK, layout=small(slots=20, blocks=64))
    run = open_run(path)
    assert sum(stop - first for first, stop in run.source.whole()) < len(run)
    expected, before = facts(path), snapshot_of(run)
    compact(path)
    assert facts(path) == expected
    assert_same(before, snapshot_of(open_run(path)))


@pytest.mark.parametrize("rows", [(5 * BLOCK + 3, 200), (1, 1), (0, 70), (4096, 4096)])
def test_parts_become_one_file(tmp_path: Path, rows: tuple[int, int]) -> None:
    """Parts with other columns: one file, the same run, and the other files are gone."""
    path = tmp_path / "run.h5"
    grow(path, *rows)
    assert len(list(tmp_path.iterdir())) == 3
    expected, before = facts(path), snapshot_of(open_run(path))
    compact(tmp_path / "run.part2.h5")
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.h5"]
    assert facts(path) == expected
    assert_same(before, snapshot_of(open_run(path)))


def test_parts_that_a_crash_left_are_not_counted_twice(tmp_path: Path) -> None:
    """Killed between the rename and the removal of the other parts: the run is the same, and is tidied up."""
    path = tmp_path / "run.h5"
    grow(path, 300, 200)
    others = {name: (tmp_path / name).read_bytes() for name in ("run.part2.h5", "run.part3.h5")}
    expected, before = facts(path), snapshot_of(open_run(path))
    compact(path)
    for name, data in others.items():
        (tmp_path / name).write_bytes(data)
    assert facts(path) == expected
    assert facts(tmp_path / "run.part2.h5") == expected
    assert_same(before, snapshot_of(open_run(path)))
    done = compact(path)
    assert not done.done
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.h5"]


def test_a_part_of_another_run_is_not_removed(tmp_path: Path) -> None:
    """A file that only looks like a part by its name is left alone."""
    path, other = tmp_path / "run.h5", tmp_path / "run.part2.h5"
    record(path, 10)
    record(other, 20)
    compact(path)
    compact(path)
    assert len(open_run(other)) == 20


def test_a_later_part_may_follow_a_compacted_file(tmp_path: Path) -> None:
    """Parts 1 and 2 compacted while part 3 was elsewhere: with part 3 back it is the whole run again."""
    path, last = tmp_path / "run.h5", tmp_path / "run.part3.h5"
    grow(path, 300, 200)
    expected = facts(path)
    last.rename(tmp_path / "elsewhere")
    compact(path)
    assert open_run(path).lost == ("the run goes on in part 3, which is not here",)
    (tmp_path / "elsewhere").rename(last)
    assert facts(path)[1:] == expected[1:]
    assert not compact(path).done
    assert last.exists()


def test_a_run_whose_first_part_is_gone(tmp_path: Path) -> None:
    """The parts that are there become one file under the name of the first of them."""
    path, second = tmp_path / "run.h5", tmp_path / "run.part2.h5"
    grow(path, 300, 200)
    path.unlink()
    expected, before = facts(second), snapshot_of(open_run(second))
    compact(second)
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.part2.h5"]
    assert facts(second) == expected
    assert_same(before, snapshot_of(open_run(second)))


def test_many_events_come_back(tmp_path: Path) -> None:
    """More text than libhdf5 2.0.0 takes at once without spoiling the file."""
    path = tmp_path / "run.h5"
    writer = RunWriter.create(path, HEADER, layout=small())
    append(writer, 0, 10)
    for i in range(16_000):
        writer.event("note", i, text="x" * 120)
    writer.event("note", 1, text="y" * 3_000_000)
    writer.close()
    expected = facts(path)
    compact(path)
    assert facts(path) == expected


@pytest.mark.parametrize("columns", [COLUMNS[:1], COLUMNS[1:2]])
def test_sites_or_scalars_alone(tmp_path: Path, columns: tuple[Column, ...]) -> None:
    """A run without scalars, and one without sites: the same rows, and xarray opens it."""
    path = tmp_path / "run.h5"
    writer = RunWriter.create(path, Header(columns), layout=small(1))
    append_pattern(writer, 0, 300, 1)
    writer.close()
    before = snapshot_of(open_run(path))
    compact(path)
    assert_same(before, snapshot_of(open_run(path)))
    with xarray.open_dataset(path, group="series", engine="h5netcdf") as series:
        assert series.sizes["site"] + series.sizes["scalar"] == 1


names = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=8)
sites = st.builds(
    Site, names, st.sampled_from(Kind), names, st.integers(-1, 99), names, st.integers(0, 2**40)
)
any_column = st.builds(Column, sites | st.none(), names)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(columns=st.lists(any_column, min_size=1, unique=True), created=st.floats(0, 1e10))
def test_any_header_comes_back(columns: list[Column], created: float) -> None:
    """Names of any script, sites and stats in any order, cells that are no column."""
    header = Header(tuple(columns), {"a": [1, None]}, {"b": "c"}, ({"name": ""},), created)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.h5"
        writer = RunWriter.create(path, header, layout=small(len(columns)))
        append_pattern(writer, 0, 70, len(columns))
        writer.close()
        compact(path)
        run = open_run(path)
        assert run.header == header
        np.testing.assert_array_equal(bits(run.source.block(0, 70)), bits(pattern(0, 70, len(columns))))


def test_a_live_run_is_refused(tmp_path: Path) -> None:
    """A run that is being written stays as it is, and goes on."""
    path = tmp_path / "run.h5"
    writer = RunWriter.create(path, HEADER, layout=small())
    append(writer, 0, 100)
    with pytest.raises(UsageError, match=r"is still being written: compact it when"):
        compact(path)
    append(writer, 100, 200)
    writer.close()
    assert len(open_run(path)) == 200


def test_a_compacted_file_is_left_alone(tmp_path: Path) -> None:
    """The second time nothing is written."""
    path = tmp_path / "run.h5"
    record(path, 100)
    compact(path)
    before = path.read_bytes(), path.stat().st_ino
    assert not compact(path).done
    assert (path.read_bytes(), path.stat().st_ino) == before


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    """A file that has no place in a table of sites and stats stays as it is."""
    path = tmp_path / "run.h5"
    header = type(HEADER)((COLUMNS[0], COLUMNS[0]))
    RunWriter.create(path, header, layout=small(2)).close()
    with pytest.raises(UsageError, match="two columns of one name"):
        compact(path)
    assert open_run(path).header == header


def test_the_file_keeps_its_mode_and_a_link_stays_a_link(tmp_path: Path) -> None:
    """Permissions are the original's; what a symbolic link points to is replaced, not the link."""
    path, link = tmp_path / "run.h5", tmp_path / "link.h5"
    record(path, 100)
    path.chmod(0o640)
    link.symlink_to(path)
    compact(link)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert link.is_symlink()
    assert len(open_run(link)) == len(open_run(path)) == 100


def test_progress_rises_to_the_end(tmp_path: Path) -> None:
    """It counts every row twice, written and compared, and never falls."""
    path = tmp_path / "run.h5"
    record(path, 10_000)
    seen: list[tuple[int, int]] = []
    compact(path, progress=lambda done, total: seen.append((done, total)))
    assert {total for _, total in seen} == {20_000}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == 20_000


def test_plain_h5py_reads_it(tmp_path: Path) -> None:
    """Values, scalars, steps and pyramid through libhdf5 and its filters: the same bits."""
    path = tmp_path / "run.h5"
    record(path, 5000)
    run = open_run(path)
    compact(path)
    with h5py.File(path) as file:
        assert file.attrs["layout"] == "compact"
        assert file.attrs["precision"] == "exact"
        values, scalars = file["series/values"], file["series/scalars"]
        for index, (site, place) in enumerate(zip(file["columns/site"], file["columns/stat"], strict=True)):
            stored = scalars[place] if site == -1 else values[site, place]
            np.testing.assert_array_equal(bits(stored), bits(run.source.column(index, 0, 5000)))
        empty = bits(values[0, 1])  # fc1.output has no nan_count
        assert (empty == MISSING_BITS).all()
        assert values.id.get_num_chunks() == 4 * 2
        np.testing.assert_array_equal(file["series/step"], run.steps)
        np.testing.assert_array_equal(file["series/time"], run.source.times(0, 5000))


def test_every_number_has_unit_and_meaning(tmp_path: Path) -> None:
    """`units` and `long_name` on each numeric dataset of the file."""
    path = tmp_path / "run.h5"
    record(path, 100)
    compact(path)
    bare: list[str] = []

    def look(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype.kind in "iuf":
            bare.extend(name for key in ("units", "long_name") if not item.attrs.get(key))

    with h5py.File(path) as file:
        file.visititems(look)
    assert not bare


@pytest.mark.parametrize("rows", [0, 1, 5000])
def test_xarray_opens_the_series(tmp_path: Path, rows: int) -> None:
    """Dimensions site, stat, scalar and step with their coordinates, without a warning, and the same bits."""
    path = tmp_path / "run.h5"
    record(path, rows)
    run = open_run(path)
    compact(path)
    with xarray.open_dataset(path, group="series", engine="h5netcdf") as series:
        assert series["values"].dims == ("site", "stat", "step")
        assert series["scalars"].dims == ("scalar", "step")
        assert list(series.coords) == ["scalar", "site", "stat", "step"]
        found = series["values"].sel(site="fc1.output", stat="l2").to_numpy()
        np.testing.assert_array_equal(bits(found), bits(run.series(COLUMNS[0].site, "l2")))
        own = series["scalars"].sel(scalar="own").to_numpy()
        np.testing.assert_array_equal(bits(own), bits(run.scalar("own")))
        np.testing.assert_array_equal(series["step"], run.steps)
        assert series["time"].attrs["units"] == "s"
        assert "site_kind" in series
