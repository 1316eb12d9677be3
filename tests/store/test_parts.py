"""Runs in several files: full ones, ones whose sites changed, and ones of which a part is missing."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from nanscope.errors import UsageError
from nanscope.run import Column, Header, is_missing
from nanscope.store import writer as writer_module
from nanscope.store.compaction.compact import compact
from nanscope.store.reader import open_run
from nanscope.store.writer import RunWriter
from nanscope.values import Epoch, Kind, Site
from tests.store.files import BLOCK, RING, append_pattern, assert_pattern, header, layout, pattern, writing


def test_a_full_file_goes_on_in_the_next_part(tmp_path: Path) -> None:
    """Three parts, opened by any of them, are one run: rows, events, epochs, scalars, overviews."""
    path = tmp_path / "run.h5"
    with writing(path, 2, blocks=2) as writer:
        append_pattern(writer, 0, 100, 2)
        writer.event("note", 100, text="in the first part")
        append_pattern(writer, 100, 200, 2)
        writer.epoch(Epoch(1, 600, 10, 0.5, 1.0, 0.1, 0.1))
        append_pattern(writer, 200, 300, 2)
        assert writer.part == 3
        append_pattern(writer, 300, 310, 2)
    names = ["run.h5", "run.part2.h5", "run.part3.h5"]
    assert sorted(file.name for file in tmp_path.iterdir()) == names
    for name in names:
        run = open_run(tmp_path / name)
        assert_pattern(run, np.arange(310))
        assert (run.state, run.lost) == ("finished", ())
        assert run.events == ({"kind": "note", "step": 100, "text": "in the first part"},)
        assert [epoch.step for epoch in run.epochs] == [600]


def test_an_amended_last_row_stays_in_its_part(tmp_path: Path) -> None:
    """A scalar logged after the step that filled the file."""
    other = pattern(10**6, 10**6 + 1, 2)
    with writing(tmp_path / "run.h5", 2, blocks=2) as writer:
        append_pattern(writer, 0, 2 * BLOCK, 2)
        writer.amend(other[0])
        append_pattern(writer, 2 * BLOCK, 2 * BLOCK + 5, 2)
    run = open_run(tmp_path / "run.h5")
    row = run.source.block(2 * BLOCK - 1, 2 * BLOCK)
    np.testing.assert_array_equal(row.view(np.uint32), other.view(np.uint32))
    assert len(run) == 2 * BLOCK + 5


def test_parts_stay_together_when_the_program_goes_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative name, and a change of directory before the next part."""
    monkeypatch.chdir(tmp_path)
    with writing(Path("run.h5"), 2, blocks=2) as writer:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        append_pattern(writer, 0, 200, 2)
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert_pattern(open_run(tmp_path / "run.h5"), np.arange(200))


def test_overviews_of_parts(tmp_path: Path) -> None:
    """No bucket reaches over a seam; `starts` says where each begins; nothing is averaged away."""
    values = np.arange(300, dtype=np.float32)
    values[[130, 200]] = np.nan, np.inf
    with writing(tmp_path / "run.h5", 1, blocks=2) as writer:
        for i, value in enumerate(values):
            writer.append(i, float(i), np.array([value]))
    view = open_run(tmp_path / "run.h5").source.overview(0, 100)
    ends = np.append(view.starts[1:], 300)
    for start, end, low, high, nonfinite in zip(
        view.starts, ends, view.low, view.high, view.nonfinite, strict=True
    ):
        part = values[start:end]
        finite = part[np.isfinite(part)]
        assert (low, high, nonfinite) == (finite.min(), finite.max(), np.count_nonzero(~np.isfinite(part)))
    assert {0, 128, 256} <= set(view.starts.tolist())


def changed(names: Sequence[str], scalars: Sequence[str] = ("loss", "")) -> Header:
    """A header with the output of each named module, and scalars."""
    sites = [Site(name, Kind.OUTPUT, "Linear", i) for i, name in enumerate(names)]
    return Header(tuple(Column(site, "l2") for site in sites) + tuple(Column(None, s) for s in scalars))


def test_other_sites_go_on_in_the_next_part(tmp_path: Path) -> None:
    """A layer appears, another one goes: each has its values where it was there, MISSING elsewhere."""
    path = tmp_path / "run.h5"
    writer = RunWriter.create(path, changed(["a", "b"]), layout=layout(4))
    assert writer.name_scalar("accuracy") == 3
    writer.append(0, 0.0, np.array([1, 2, 3, 4], np.float32))
    writer.change(changed(["b", "c"], ("loss", "", "accuracy")))
    assert writer.name_scalar("accuracy") == 4
    writer.append(1, 1.0, np.array([5, 6, 7, 8, 9], np.float32))
    writer.close()
    run = open_run(path)
    assert run.steps.tolist() == [0, 1]
    assert [str(site) for site in run.sites] == ["a.output", "b.output", "c.output"]
    assert run.scalars == ("loss", "accuracy")
    nan = float("nan")
    for site, expected in zip(run.sites, ([1, nan], [2, 5], [nan, 6]), strict=True):
        np.testing.assert_array_equal(run.series(site), np.array(expected, np.float32))
        np.testing.assert_array_equal(is_missing(run.series(site)), np.isnan(expected))
        assert run.source.overview(run.index(site, "l2"), 10).starts.tolist() == [0, 1]
    np.testing.assert_array_equal(run.scalar("loss"), np.array([3, 7], np.float32))
    np.testing.assert_array_equal(run.scalar("accuracy"), np.array([4, 9], np.float32))
    table = run.source.block(0, 2)
    columns = [run.source.column(i, 0, 2) for i in range(table.shape[1])]
    np.testing.assert_array_equal(table, np.stack(columns, axis=1))


def test_a_missing_next_part_is_told(tmp_path: Path) -> None:
    """The state is `continued`, the sentence names the part."""
    with writing(tmp_path / "run.h5", 2, blocks=2) as writer:
        append_pattern(writer, 0, 300, 2)
    (tmp_path / "run.part2.h5").unlink()
    run = open_run(tmp_path / "run.h5")
    assert_pattern(run, np.arange(2 * BLOCK))
    assert run.state == "continued"
    assert run.lost == ("the run goes on in part 2, which is not here",)


def test_a_missing_first_part_is_told(tmp_path: Path) -> None:
    """A later part is readable by itself."""
    with writing(tmp_path / "run.h5", 2, blocks=2) as writer:
        append_pattern(writer, 0, 200, 2)
    (tmp_path / "run.h5").unlink()
    run = open_run(tmp_path / "run.part2.h5")
    assert_pattern(run, np.arange(2 * BLOCK, 200))
    assert run.lost == ("this is part 2 of a run, the first part is not here",)


def test_a_damaged_next_part_is_told(tmp_path: Path) -> None:
    """What can be read is shown."""
    with writing(tmp_path / "run.h5", 2, blocks=2) as writer:
        append_pattern(writer, 0, 200, 2)
    (tmp_path / "run.part2.h5").write_bytes(b"nothing")
    run = open_run(tmp_path / "run.h5")
    assert len(run) == 2 * BLOCK
    assert run.lost[0].startswith("part 2 of the run cannot be read: ")
    assert "is not an HDF5 file" in run.lost[0]


def test_a_part_of_another_run_is_left_alone(tmp_path: Path) -> None:
    """A leftover of an older run has the name: the new part takes another one, each run finds its own."""
    for name in ("old", "run"):
        with writing(tmp_path / f"{name}.h5", 2, blocks=2) as writer:
            if name == "run":
                (tmp_path / "old.part2.h5").rename(tmp_path / "run.part2.h5")
            append_pattern(writer, 0, 200, 2)
    assert_pattern(open_run(tmp_path / "run.h5"), np.arange(200))
    assert len(list(tmp_path.glob("run.part2-*.h5"))) == 1
    other = open_run(tmp_path / "run.part2.h5")
    assert_pattern(other, np.arange(2 * BLOCK, 200))


def test_no_room_for_another_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One warning; the first rows stay, the newest are kept as far as the ring goes."""
    with writing(tmp_path / "run.h5", 2, blocks=2) as writer:
        append_pattern(writer, 0, 10, 2)

        def refuse(*_: object) -> None:
            raise UsageError("no space", "free some")

        monkeypatch.setattr(writer_module, "publish", refuse)
        with pytest.warns(RuntimeWarning, match="cannot go on in another part yet: no space: free some"):
            append_pattern(writer, 10, 1000, 2)
        writer.close()
    run = open_run(tmp_path / "run.h5")
    assert_pattern(run, np.concatenate([np.arange(2 * BLOCK), np.arange(1000 - RING, 1000)]))
    assert run.lost == (f"{1000 - RING - 2 * BLOCK:,} steps could not be written and are missing",)


def test_another_part_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that had no room for a moment: the run goes on in the next part as soon as there is some."""
    with writing(tmp_path / "run.h5", 2, blocks=2) as writer:
        append_pattern(writer, 0, 2 * BLOCK, 2)
        with monkeypatch.context() as full:
            full.setattr(writer_module, "part_names", lambda *_: ())
            append_pattern(writer, 2 * BLOCK, 2 * BLOCK + 10, 2)
        writer._retry_at = 0.0  # it tries again after a second; this test does not wait for it
        append_pattern(writer, 2 * BLOCK + 10, 2 * BLOCK + 50, 2)
        assert writer.part == 2
    assert_pattern(open_run(tmp_path / "run.h5"), np.arange(2 * BLOCK + 50))


def test_a_run_that_is_named_like_a_part(tmp_path: Path) -> None:
    """`exp.part2.h5` as the name of a whole run; and a run opened through a link from elsewhere."""
    with writing(tmp_path / "exp.part2.h5", 2, blocks=2) as writer:
        append_pattern(writer, 0, 300, 2)
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "latest.h5"
    link.symlink_to(tmp_path / "exp.part2.h5")
    for path in (tmp_path / "exp.part2.h5", link):
        assert_pattern(open_run(path), np.arange(300))
    compact(link)
    assert_pattern(open_run(tmp_path / "exp.part2.h5"), np.arange(300))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["exp.part2.h5", "links"]


def test_changed_sites_without_room_lose_rows_and_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of other columns cannot go into the old file: they are counted, the training goes on."""
    with writing(tmp_path / "run.h5", 2) as writer:
        append_pattern(writer, 0, 10, 2)
        monkeypatch.setattr(writer_module, "part_names", lambda *_: ())
        writer.change(header(3))
        append_pattern(writer, 10, 15, 3)
        writer.amend(np.zeros(3, np.float32))
    run = open_run(tmp_path / "run.h5")
    assert_pattern(run, np.arange(10))
    (lost,) = run.lost
    assert lost.startswith("5 steps found no room and were not recorded: ")
