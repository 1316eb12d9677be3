"""What is fixed in a run file is held against the schema and against bounds before anything relies on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from nanscope.errors import RunFileError
from nanscope.run import Column, Header
from nanscope.store.compaction.compact import compact
from nanscope.store.guard.refusal import Refusal
from nanscope.store.inventory import Stored
from nanscope.store.layout import Layout, row_words
from nanscope.store.reader import open_run
from nanscope.store.schema import arrays
from nanscope.store.sizes import check_compact, live_layout, offsets_of
from nanscope.store.writer import RunWriter
from tests.store.crafts import sound

Change = Callable[[Any], None]


def attribute(name: str, value: Any) -> Change:
    """Give the root another attribute."""
    return lambda file: file.attrs.__setitem__(name, value)


def dataset(name: str, value: Any) -> Change:
    """Put another dataset in the place of one."""

    def change(file: Any) -> None:
        del file[name]
        file[name] = value

    return change


CHANGES: dict[str, Change] = {
    "a run id that is a path": attribute("run_id", "../../../../etc/passwd/aaaaaaaaaa"),
    "no run id": attribute("run_id", 5),
    "part 0": attribute("part", 0),
    "a part beyond counting": attribute("part", 2**40),
    "a part that is no number": attribute("part", "1"),
    "an unknown layout": attribute("layout", "other"),
    "a moment that is none": attribute("created", np.nan),
    "a moment without a date": attribute("created", 1e15),
    "settings that are no JSON": dataset("config", "{"),
    "settings that are a list": dataset("config", "[1]"),
    "settings without end": dataset("config", "[" * 100_000),
    "a number without end": dataset("env", '{"x": ' + "9" * 5000 + "}"),
    "modules that are no list": dataset("model", "{}"),
    "modules that are words": dataset("model", '["fc"]'),
    "a site that is not there": dataset("columns/site", np.array([7, 0, 1, 1, -1], "<i4")),
    "a site from the end": dataset("columns/site", np.array([-2, 0, 1, 1, -1], "<i4")),
    "a stat from the end": dataset("columns/stat", np.array([-1, 1, 0, 1, 0], "<i4")),
    "columns of another type": dataset("columns/site", np.array([0, 0, 1, 1, -1], ">i4")),
    "a column too few": dataset("columns/site", np.array([0, 0, 1, 1], "<i4")),
    "a kind of site that is none": dataset("series/site_kind", ["output", "nothing"]),
    "a name too few": dataset("series/site_module", ["fc0"]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_contents_that_are_not_as_the_schema_says(tmp_path: Path, name: str) -> None:
    """Refused as damaged; no other error gets out."""
    path = tmp_path / "run.h5"
    sound(path)
    with h5py.File(path, "r+") as file:
        CHANGES[name](file)
    with pytest.raises(RunFileError, match="is damaged or cut short: copy it again"):
        open_run(path)


def stored(layout: Layout) -> dict[str, Stored]:
    """What the inventory of a live file of these sizes says."""
    return {spec.name: Stored(spec.shape, spec.dtype, 4096) for spec in arrays(layout)}


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        (Layout(1_000_001, 16, 16, 4, 4), "it has 1,000,001 columns"),
        (Layout(10, 64, 256, 2**21, 4), "it has room for 134,217,728 rows in 2,097,152 blocks"),
        (Layout(10, 65536, 65536, 2**13, 4), "it has room for 536,870,912 rows"),
        (Layout(10, 64, 2**19, 2**14, 4), "its newest rows take"),
        (Layout(100_000, 64, 2**10, 2**14, 4), "its newest rows take"),
    ],
)
def test_sizes_that_would_take_too_much_memory(layout: Layout, words: str) -> None:
    """Refused by the sizes alone, whatever the file's own size: it may be sparse."""
    with pytest.raises(Refusal, match=words):
        live_layout(stored(layout))


@pytest.mark.parametrize(
    "layout",
    [
        Layout(10, 64, 256, 4, 5),
        Layout(10, 63, 126, 4, 4),
        Layout(10, 8, 16, 4, 4),
        Layout(10, 64, 96, 4, 4),
        Layout(10, 64, 0, 4, 4),
        Layout(10, 64, 64, 0, 0),
    ],
)
def test_sizes_that_do_not_fit_together(layout: Layout) -> None:
    """More values than blocks, blocks of odd lengths, no ring, no blocks."""
    with pytest.raises(ValueError, match="do not fit together"):
        live_layout(stored(layout))


def test_the_sizes_of_every_run_are_read() -> None:
    """What the writer chooses for runs of few and many columns and steps comes back from the shapes."""
    for columns in (1, 230, 6000, 100_000):
        for capacity in (None, 1, 3_000_000, 10**8):
            layout = Layout.for_run(columns, capacity)
            assert live_layout(stored(layout)) == layout
    assert row_words(230) == 238


def test_offsets_are_held_against_the_file() -> None:
    """Of another shape or type, in chunks, without a place, or beyond the end: refused."""
    layout = Layout(3, 64, 128, 4, 4)
    found = stored(layout)
    size = 4096 + max(spec.nbytes for spec in arrays(layout))
    assert set(offsets_of(layout, found, size)) == {spec.name for spec in arrays(layout)}
    for wrong in (
        Stored((4, 3, 63), "<f4", 4096),
        Stored((4, 3, 64), ">f4", 4096),
        Stored((4, 3, 64), "<f4", None),
        Stored((4, 3, 64), "<f4", None, (1, 1, 64)),
        Stored((4, 3, 64), "<f4", size),
    ):
        with pytest.raises(ValueError, match="series/blocks"):
            offsets_of(layout, {**found, "series/blocks": wrong}, size)


def test_rows_of_a_compacted_file_are_held_against_its_size(tmp_path: Path) -> None:
    """Every step is stored, and deflate has a largest ratio; honest files are far from it."""
    check_compact({"series/step": Stored((1000,), "<i8", None, (1000,))}, 5000)
    for rows, words in ((10**6, "more than a file of its size"), (2**29, "more than are read")):
        with pytest.raises(Refusal, match=words):
            check_compact({"series/step": Stored((rows,), "<i8", None, (4096,))}, 5000)
    sound(tmp_path / "run.h5", 250)
    compact(tmp_path / "run.h5")
    with h5py.File(tmp_path / "run.h5", "r+") as file:
        del file["series/step"]
        file.create_dataset("series/step", (2**25,), "<i8", chunks=(4096,), compression=1, shuffle=True)
    with pytest.raises(RunFileError, match=r"was not opened: it claims 33,554,432 rows"):
        open_run(tmp_path / "run.h5")


def test_a_header_without_sites(tmp_path: Path) -> None:
    """Scalars alone are a sound run: its empty tables have no place in the file."""
    RunWriter.create(tmp_path / "run.h5", Header((Column(None, "loss"),))).close()
    assert open_run(tmp_path / "run.h5").scalars == ("loss",)
